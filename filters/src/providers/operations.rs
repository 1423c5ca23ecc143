//! What a provider's API offers.

use std::fmt;

/// One thing a provider may be asked for, or may understand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Conversations, in whatever format it speaks.
    Chat,
    /// Answers as streams.
    Stream,
    /// Reasoning in answers.
    Reasoning,
    /// Images in requests.
    ImagesIn,
    /// Files such as PDF in requests.
    FilesIn,
    /// Embeddings.
    Embeddings,
    /// The Responses API, natively.
    Responses,
    /// Anthropic's Messages API, natively.
    Messages,
    /// A list of its models.
    ListModels,
    /// Ordering documents by relevance.
    Rerank,
    /// Moderation.
    Moderation,
    /// Making images.
    Images,
    /// Speech to text.
    Transcription,
    /// Text to speech.
    Speech,
    /// Batches of calls.
    Batch,
}

impl Operation {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::Chat,
        Self::Stream,
        Self::Reasoning,
        Self::ImagesIn,
        Self::FilesIn,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::ListModels,
        Self::Rerank,
        Self::Moderation,
        Self::Images,
        Self::Transcription,
        Self::Speech,
        Self::Batch,
    ];

    /// Its name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Stream => "stream",
            Self::Reasoning => "reasoning",
            Self::ImagesIn => "images-in",
            Self::FilesIn => "files-in",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::ListModels => "list-models",
            Self::Rerank => "rerank",
            Self::Moderation => "moderation",
            Self::Images => "images",
            Self::Transcription => "transcription",
            Self::Speech => "speech",
            Self::Batch => "batch",
        }
    }
}

/// A set of [`Operation`]s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Operations(u16);

impl Operations {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Those in the list.
    pub const fn of(list: &[Operation]) -> Self {
        let (mut bits, mut at) = (0, 0);
        // An iterator cannot be used where tables are made.
        while at < list.len() {
            bits |= 1 << list[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    /// Whether `operation` is one of them.
    pub const fn has(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u16) != 0
    }

    /// The members, in the order of [`Operation::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Operation> {
        Operation::ALL.into_iter().filter(move |operation| self.has(*operation))
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
