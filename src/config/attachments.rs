//! What becomes of images and documents that a model cannot take: `file_understanding_enabled`, `vision_*`,
//! `model_capabilities`.

use otari_filters::attachments::{Capabilities, Native};

use super::layers::Fields;
use super::node::Node;
use super::problem::{Report, suggestion};

/// Images and documents in requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachments {
    /// Look at them at all; otherwise they go on as they came.
    pub is_enabled: bool,
    /// What becomes of an image that the model cannot take.
    pub strategy: VisionStrategy,
    /// Who describes images, as callers name models; `None`: nobody.
    pub describe_model: Option<String>,
    /// Output tokens of a description; at least 1.
    pub describe_max_tokens: u64,
    /// What the operator says of models.
    pub capabilities: Capabilities,
}

/// `vision_strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VisionStrategy {
    /// `vision_describe_model` says what is to be seen.
    #[default]
    Describe,
    /// The text in the image is recognised. No engine for that is built in: as `off`.
    Ocr,
    /// A note stands in its place.
    Off,
}

impl VisionStrategy {
    /// Every word, in the order of the alphabet.
    pub const WORDS: [&str; 3] = ["describe", "ocr", "off"];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Ocr => "ocr",
            Self::Off => "off",
        }
    }

    /// What a word means.
    pub fn read(word: &str) -> Option<Self> {
        [Self::Describe, Self::Ocr, Self::Off].into_iter().find(|one| one.as_str() == word)
    }
}

/// Reads all of them.
pub(super) fn read(fields: &Fields, report: &mut Report) -> Attachments {
    let describe_model = fields.text("vision_describe_model", report).map(str::trim);
    Attachments {
        is_enabled: fields.flag("file_understanding_enabled", true, report),
        strategy: strategy(fields, report),
        describe_model: describe_model.filter(|model| !model.is_empty()).map(str::to_owned),
        // Some hundred words: a page of text fits.
        describe_max_tokens: fields.whole(
            "vision_describe_max_tokens",
            1..=u64::from(u32::MAX),
            1024,
            report,
        ),
        capabilities: fields
            .get("model_capabilities")
            .map(|node| capabilities(node, report))
            .unwrap_or_default(),
    }
}

fn strategy(fields: &Fields, report: &mut Report) -> VisionStrategy {
    let key = "vision_strategy";
    let Some(text) = fields.text(key, report) else { return VisionStrategy::default() };
    let strategy = VisionStrategy::read(&text.trim().to_lowercase());
    if let Some(node) = fields.get(key) {
        match strategy {
            None => {
                let got = if node.expanded { "…" } else { text };
                let words = VisionStrategy::WORDS.join("', '");
                report.problem(&node.place, format!("{key} must be one of ['{words}'], got '{got}'"));
            }
            Some(VisionStrategy::Ocr) => node.warn(
                report,
                "this version has no text recognition, so an image that the model cannot take is left out with a note. \
                 Use describe and set vision_describe_model to have it described instead.",
            ),
            Some(VisionStrategy::Describe | VisionStrategy::Off) => {}
        }
    }
    strategy.unwrap_or_default()
}

const SWITCHES: [&str; 2] = ["supports_image", "supports_pdf"];

fn capabilities(node: &Node, report: &mut Report) -> Capabilities {
    let mut all = Vec::new();
    for (model, entry) in node.entries(report) {
        let mut native = Native::default();
        for (name, value) in entry.entries(report) {
            let flag = match name.as_str() {
                "supports_image" => &mut native.images,
                "supports_pdf" => &mut native.documents,
                _ => {
                    let hint = suggestion(name, SWITCHES);
                    let what =
                        format!("supports_image and supports_pdf can be said of a model.{hint}");
                    value.wrong(report, &what);
                    continue;
                }
            };
            *flag = value.flag(report).unwrap_or(false);
        }
        all.push((model.as_str().into(), native));
    }
    Capabilities::new(all)
}
