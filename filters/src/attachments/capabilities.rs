//! What models understand by themselves, as far as anybody has said.

use std::collections::HashMap;

use super::Kind;
use crate::providers::{Operation, Provider};

/// Servers that run whatever model an operator loads: what their API can carry says nothing of it.
const NEVER_TRUSTED: [&str; 4] = ["llamacpp", "lmstudio", "ollama", "vllm"];

/// Which attachments a model takes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Native {
    /// `supports_image`.
    pub images: bool,
    /// `supports_pdf`: it speaks for every kind of document.
    pub documents: bool,
}

impl Native {
    /// Whether it takes these.
    pub fn takes(self, kind: Kind) -> bool {
        match kind {
            Kind::Image => self.images,
            Kind::Document => self.documents,
        }
    }
}

/// `model_capabilities`: what the operator said of models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(HashMap<Box<str>, Native>);

impl Capabilities {
    /// Entries by `provider:model`, `provider/model` or the model's name alone.
    pub fn new(entries: impl IntoIterator<Item = (Box<str>, Native)>) -> Self {
        Self(entries.into_iter().collect())
    }

    /// What a model takes: what the operator said, else what the provider's API offers. `instance`: the provider's name
    /// in selectors; `model`: the provider's own name of the model.
    pub fn of(&self, instance: &str, kind: &Provider, model: &str) -> Native {
        let said = || {
            self.0
                .get(format!("{instance}:{model}").as_str())
                .or_else(|| self.0.get(format!("{instance}/{model}").as_str()))
                .or_else(|| self.0.get(model))
        };
        if !self.0.is_empty()
            && let Some(native) = said()
        {
            return *native;
        }
        if NEVER_TRUSTED.contains(&kind.name) {
            return Native::default();
        }
        Native {
            images: kind.offers(Operation::ImagesIn),
            documents: kind.offers(Operation::FilesIn),
        }
    }
}
