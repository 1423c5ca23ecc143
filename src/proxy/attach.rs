//! The images and documents of a generation: where their bytes are, who describes images, and the body that each of the
//! attempts gets.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use otari_filters::control::{Attempt, Caller};
use otari_filters::protocol::{Protocol, Request};
use otari_filters::rejection::Rejection;
use serde_json::{Value, json};

use crate::app::{App, Mode, Standalone};
use crate::attachments::{Attachments, Described, NoFile, Rendered, Stored, World};
use crate::config::VisionStrategy;
use crate::files::Files;
use crate::proxy::RequestContext;
use crate::proxy::call::{Asked, Call};
use crate::proxy::inner::{self, Ask};

/// What a model is told before it sees an image.
const INSTRUCTION: &str = "Describe this image for somebody who cannot see it. Say what it shows and where things are, \
    and write down every text in it word by word. Answer with the description alone.";

/// Attachments of one call, and the body made of them for the attempt under way.
pub(super) struct Attached {
    attachments: Attachments,
    rendered: Option<Rendered>,
}

impl Attached {
    /// The body for the attempt under way; `None`: the caller's own.
    pub(super) fn rendered(&self) -> Option<&Rendered> {
        self.rendered.as_ref()
    }

    /// The same, taken.
    pub(super) fn into_rendered(self) -> Option<Rendered> {
        self.rendered
    }

    /// The same attachments in another body, which has them in the same order.
    pub(super) fn follow(&mut self, body: &Bytes) {
        self.attachments.follow(body);
        self.rendered = None;
    }
}

/// Looks for attachments, and fetches the stored files among them.
///
/// # Errors
/// `body_too_large` with its files.
pub(super) async fn load(
    app: &Arc<App>,
    ctx: &RequestContext,
    request: &Request,
    body: &Bytes,
) -> Result<Option<Box<Attached>>, Rejection> {
    let Some(world) = Household::of(app, ctx, request.protocol) else { return Ok(None) };
    let most = app.live().limits.max_request_bytes;
    let loaded = Attachments::load(request, body, &world, most).await?;
    Ok(loaded.map(|attachments| Box::new(Attached { attachments, rendered: None })))
}

/// Makes the body that this attempt gets.
///
/// # Errors
/// `budget_exceeded` when what stands in the place of attachments may not be paid for, `body_too_large`.
pub(super) async fn fit(
    app: &Arc<App>,
    ctx: &RequestContext,
    call: &mut Call,
    attempt: &Attempt,
) -> Result<(), Rejection> {
    let (Some(mut attached), Asked::Generation(request)) = (call.attachments.take(), &call.asked)
    else {
        return Ok(());
    };
    if let Some(world) = Household::of(app, ctx, request.protocol) {
        let kind = attempt.upstream.kind;
        let native = app.live().attachments.capabilities.of(
            &attempt.upstream.instance,
            kind,
            &attempt.model,
        );
        // What descriptions of images cost is in rows of their own.
        attached.attachments.read_for(native, &world, &app.readers).await;
        let most = app.live().limits.max_request_bytes;
        attached.rendered = attached.attachments.render(native, most)?;
    }
    let chars = attached.rendered.as_ref().map(|rendered| rendered.request.prompt_chars);
    call.attachments = Some(attached);
    match chars {
        Some(chars) => call.open.cover_prompt(chars, attempt.prices.as_deref()).await,
        None => Ok(()),
    }
}

/// The caller's files, and the model that describes images for them.
struct Household<'a> {
    app: &'a Arc<App>,
    files: &'a Files,
    caller: &'a Caller,
    user_id: &'a str,
    /// Of the request that is helped.
    endpoint: &'static str,
    /// Who describes images, and in how many tokens.
    vision: Option<(String, u64)>,
}

impl<'a> Household<'a> {
    /// `None` where attachments are not looked at: by a platform's gateway, where it is switched off, and in calls that
    /// the gateway makes by itself.
    fn of(app: &'a Arc<App>, ctx: &'a RequestContext, protocol: Protocol) -> Option<Self> {
        let Mode::Standalone(standalone) = &app.mode else { return None };
        let standalone: &'a Standalone = standalone;
        let settings = app.settings.load();
        if ctx.own.is_some() || !settings.file_understanding_enabled {
            return None;
        }
        let model = settings.vision_describe_model.clone();
        let model = model.filter(|_| settings.vision_strategy == VisionStrategy::Describe);
        Some(Self {
            app,
            files: &standalone.files,
            caller: ctx.caller.as_ref()?,
            user_id: ctx.user_id.as_deref()?,
            endpoint: protocol.route(),
            vision: model.map(|model| (model, settings.vision_describe_max_tokens)),
        })
    }
}

#[async_trait]
impl World for Household<'_> {
    async fn file(&self, id: &str, max_bytes: usize) -> Result<Option<Stored>, NoFile> {
        use crate::files::FilesError;
        match self.files.read(Some(self.user_id), id, max_bytes).await {
            Ok(file) => Ok(file.map(|file| Stored {
                filename: file.filename,
                mime_type: file.mime_type,
                bytes: file.bytes,
            })),
            Err(FilesError::TooLarge { .. }) => Err(NoFile::TooLarge),
            Err(error) => Err(NoFile::Failed(error.to_string())),
        }
    }

    fn describes(&self) -> bool {
        self.vision.is_some()
    }

    async fn describe(&self, image: &str) -> Option<Described> {
        let (model, most) = self.vision.as_ref()?;
        let mut body = json!({
            "model": model,
            "max_tokens": most,
            "messages": [{"role": "user", "content": [
                {"type": "text", "text": INSTRUCTION},
                {"type": "image_url", "image_url": {"url": image}},
            ]}],
        });
        if matches!(self.caller, Caller::Master) {
            body["user"] = self.user_id.into();
        }
        let ask = Ask {
            caller: self.caller.clone(),
            protocol: Protocol::Chat,
            body: body.to_string().into(),
            own: Some(self.endpoint),
        };
        let answer = inner::ask(self.app, ask).await;
        if answer.status != 200 {
            tracing::warn!(model, status = answer.status, "an image could not be described");
            return None;
        }
        let answer: Value = serde_json::from_slice(&answer.body).ok()?;
        let text = answer.pointer("/choices/0/message/content")?.as_str()?.trim();
        (!text.is_empty()).then(|| Described { text: text.to_owned(), usage: None })
    }
}
