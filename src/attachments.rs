//! The images and documents of one request: their bytes are fetched once, and the body is made anew for each model that
//! is asked, because one takes what another does not.
//!
//! Whatever goes wrong with an attachment leaves it as it came, and the request goes on. Addresses are never fetched.

mod bytes_of;
mod texts;

use std::collections::HashMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use otari_filters::attachments::{
    self, Block, Inline, Native, Replacement, Source, Step, edit, find, is_own_file, step,
};
use otari_filters::meter::Usage;
use otari_filters::protocol::{Protocol, Request};
use otari_filters::rejection::{Code, Rejection};

use crate::documents::Readers;

/// Attachments of a request that are looked at; those behind them go on as they came.
const MAX_BLOCKS: usize = 100;

/// What attachments are made of, and made by.
#[async_trait]
pub trait World: Send + Sync {
    /// A file of the caller; `None` where there is none of this name for them.
    async fn file(&self, id: &str, max_bytes: usize) -> Result<Option<Stored>, NoFile>;

    /// Whether somebody describes images.
    fn describes(&self) -> bool;

    /// What is to be seen in an image, given as a data URL; `None` where nobody can say.
    async fn describe(&self, image: &str) -> Option<Described>;
}

/// A stored file, whole.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As its owner calls it.
    pub filename: String,
    /// The media type.
    pub mime_type: String,
    /// All of it.
    pub bytes: Bytes,
}

/// Why a file that is there is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoFile {
    /// It has more bytes than were allowed.
    TooLarge,
    /// It cannot be read at present. For the log.
    Failed(String),
}

/// What a model said of an image.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its words.
    pub text: String,
    /// What they cost.
    pub usage: Option<Usage>,
}

/// The attachments of a request, with what is known of each.
#[derive(Debug)]
pub struct Attachments {
    protocol: Protocol,
    body: Bytes,
    held: Vec<Held>,
}

/// One attachment.
#[derive(Debug)]
struct Held {
    block: Block,
    /// Its bytes, where it named a stored file.
    file: Option<Stored>,
    /// What stands in its place for a model that cannot take it.
    instead: Instead,
}

#[derive(Debug)]
enum Instead {
    /// Nobody asked yet.
    Unmade,
    /// The attachment itself: something went wrong that is not its fault.
    Itself,
    Text(Box<str>),
}

/// A body for one model.
#[derive(Debug)]
pub struct Rendered {
    /// The bytes.
    pub body: Bytes,
    /// What the gateway reads of them: ranges of the caller's own request do not fit them.
    pub request: Request,
}

impl Attachments {
    /// Looks for attachments, and fetches the stored files among them. `None`: the request has none.
    ///
    /// # Errors
    /// `body_too_large` when the files together have more than `max_bytes`.
    pub async fn load(
        request: &Request,
        body: &Bytes,
        world: &dyn World,
        max_bytes: usize,
    ) -> Result<Option<Self>, Rejection> {
        // Most requests have nothing of the kind, which was noticed when their text was counted.
        if !request.has_media {
            return Ok(None);
        }
        let mut blocks = find(request.protocol, body);
        if blocks.is_empty() {
            return Ok(None);
        }
        blocks.truncate(MAX_BLOCKS);
        let files = fetch(&blocks, world, max_bytes).await?;
        let held = blocks.into_iter().map(|block| Held {
            file: match &block.source {
                Source::File(id) => files.get(id).cloned().flatten(),
                _ => None,
            },
            block,
            instead: Instead::Unmade,
        });
        let held = held.collect();
        Ok(Some(Self { protocol: request.protocol, body: body.clone(), held }))
    }

    /// The same attachments in another body, which has them in the same order: tools were added to it.
    pub fn follow(&mut self, body: &Bytes) {
        for (held, block) in self.held.iter_mut().zip(find(self.protocol, body)) {
            held.block = block;
        }
        self.body = body.clone();
    }

    /// Makes whatever must stand in the place of attachments for a model that takes `native` by itself. What was made
    /// for another model is not made again. Returns what descriptions of images cost, a call each.
    pub async fn read_for(
        &mut self,
        native: Native,
        world: &dyn World,
        readers: &Readers,
    ) -> Vec<Usage> {
        let mut usage = Vec::new();
        let Self { protocol, body, held } = self;
        for held in held {
            if !matches!(held.instead, Instead::Unmade) {
                continue;
            }
            let Step::Text { has_bytes } =
                step(*protocol, &held.block, native, held.file.is_some())
            else {
                continue;
            };
            held.instead = if has_bytes {
                texts::make(body, held, world, readers, &mut usage).await
            } else {
                Instead::Text(attachments::texts::omitted(held.block.kind).into())
            };
        }
        usage
    }

    /// The body for a model that takes `native` by itself; call [`Attachments::read_for`] before. `None`: the caller's
    /// own, byte for byte.
    ///
    /// # Errors
    /// `body_too_large` when it has more than `max_bytes` with everything in it.
    pub fn render(&self, native: Native, max_bytes: usize) -> Result<Option<Rendered>, Rejection> {
        let mut edits = Vec::new();
        for held in &self.held {
            let with = |with: &Replacement<'_>| edit(self.protocol, &self.body, &held.block, with);
            match step(self.protocol, &held.block, native, held.file.is_some()) {
                Step::Keep => {}
                Step::Inline => {
                    let Some(file) = &held.file else { continue };
                    let base64 = STANDARD.encode(&file.bytes);
                    let mime = bytes_of::mime(&file.mime_type, &file.bytes);
                    let filename = &file.filename;
                    edits.push(with(&Replacement::Inline(Inline {
                        mime,
                        base64: &base64,
                        filename,
                    })));
                }
                Step::Text { .. } => {
                    if let Instead::Text(text) = &held.instead {
                        edits.push(with(&Replacement::Text(text)));
                    }
                }
            }
        }
        if edits.is_empty() {
            return Ok(None);
        }
        let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
        let gone: usize = edits.iter().map(|edit| edit.range.len()).sum();
        if self.body.len() - gone + added > max_bytes {
            return Err(too_large(max_bytes));
        }
        let body = attachments::render(&self.body, edits);
        let request = Request::read(self.protocol, &body)?;
        Ok(Some(Rendered { body, request }))
    }
}

/// The stored files that `blocks` name, each once.
async fn fetch(
    blocks: &[Block],
    world: &dyn World,
    max_bytes: usize,
) -> Result<HashMap<Box<str>, Option<Stored>>, Rejection> {
    let mut files: HashMap<Box<str>, Option<Stored>> = HashMap::new();
    let mut left = max_bytes;
    for block in blocks {
        let Source::File(id) = &block.source else { continue };
        // Other names are the provider's own.
        if files.contains_key(id) || !is_own_file(id) {
            continue;
        }
        let file = match world.file(id, left).await {
            Ok(file) => file,
            Err(NoFile::TooLarge) => return Err(too_large(max_bytes)),
            Err(NoFile::Failed(why)) => {
                tracing::warn!(
                    file = &**id,
                    why,
                    "a stored file could not be read: its name goes on"
                );
                None
            }
        };
        left = left.saturating_sub(file.as_ref().map_or(0, |file| file.bytes.len()));
        files.insert(id.clone(), file);
    }
    Ok(files)
}

fn too_large(max_bytes: usize) -> Rejection {
    Rejection::new(
        Code::BodyTooLarge,
        format!(
            "With its files the request is larger than {max_bytes} bytes: send fewer or smaller files, or raise \
             max_request_bytes"
        ),
    )
}

#[cfg(test)]
mod tests;
