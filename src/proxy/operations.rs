//! The operations beside generation: embeddings, moderations, rerank, images, speech, transcriptions. Each passes the
//! gates and the walk of every call; only what is asked, and what it costs, differs.

use std::sync::Arc;

use bytes::Bytes;
use otari_filters::operations::{Content, Form, Kind, Part, Units};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::reserve::{Estimate, Measure};
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::call::{Asked, Call, Operation, Stop};
use crate::proxy::form::{self, FormLimits};
use crate::proxy::gates::{self, Asks, Passed};
use crate::proxy::spool::{Spool, Spooled};
use crate::proxy::{RequestContext, body, generate, refusals};

/// The longest recording, as the reference gateway and OpenAI have it.
const MAX_AUDIO_BYTES: u64 = 25 << 20;
/// Folder of recordings on their way, below that of the journal.
const SPOOL: &str = "spool";

/// Serves one operation.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    kind: Kind,
) -> Result<(), Stop> {
    let (operation, body) = read(app, s, kind).await?;
    ctx.outcome.model = Some(operation.asked.model.as_str().into());
    let no_router = !generate::wants_router(s)?;
    let mut call = match pass_gates(app, ctx, operation, body, no_router).await {
        Err(refused) => {
            refusals::note(app, ctx, kind.route(), kind.operation(), &refused).await;
            return Err(refused.into());
        }
        Ok(call) => call,
    };
    generate::answer(app, s, ctx, &mut call).await
}

async fn pass_gates(
    app: &Arc<App>,
    ctx: &mut RequestContext,
    operation: Operation,
    body: Bytes,
    no_router: bool,
) -> Result<Call, Rejection> {
    let asked = &operation.asked;
    let asks = Asks {
        model: &asked.model,
        user: asked.user.as_deref(),
        endpoint: asked.kind.route(),
        operation: asked.kind.operation(),
        no_router,
        estimate: estimate(asked.kind, asked.units),
        needs_price: asked.kind.needs_price(),
        session_label: None,
    };
    let Passed { plan, open, keeps_user } = gates::pass(app, ctx, &asks).await?;
    Ok(Call { asked: Asked::Operation(operation), body, keeps_user, plan, at: 0, open })
}

fn estimate(kind: Kind, units: Units) -> Estimate {
    match (kind, units) {
        (_, Units::Text { chars, tokens }) => Estimate::of_input(chars, tokens),
        (_, Units::Images(images)) => Estimate::by(Measure::Images(images)),
        (Kind::Moderations, Units::Call) => Estimate::by(Measure::Moderation),
        (_, Units::Call) => Estimate::by(Measure::Call),
    }
}

/// What is asked, and the JSON that asks it.
async fn read(app: &App, s: &mut Session, kind: Kind) -> Result<(Operation, Bytes), Stop> {
    if kind != Kind::Transcription {
        let body = body::read(s, &app.config.limits).await?;
        body::check_type(s, &body)?;
        let asked =
            otari_filters::operations::Asked::read(kind, &body, s.req_header().uri.query())?;
        return Ok((Operation { asked, upload: None }, body));
    }
    let (form, file) = receive(app, s).await?;
    let asked = form.read()?;
    let file = file.ok_or_else(|| Rejection::internal("a form passed without its file"))?;
    Ok((Operation { asked, upload: Some((form, file)) }, Bytes::new()))
}

/// The form, with its file on disk. What is no form has no fields: that is said then.
async fn receive(app: &App, s: &mut Session) -> Result<(Form, Option<Spooled>), Stop> {
    let limits =
        FormLimits { file_bytes: MAX_AUDIO_BYTES, idle: app.config.limits.request_body_timeout };
    let mut form = Form::default();
    let Some(mut parts) = form::open(s, limits).await.map_err(too_long)? else {
        return Ok((form, None));
    };
    let mut file = None;
    let broken = |error: multer::Error| too_long(form::broken(&error, limits));
    while let Some(mut field) = parts.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        let content_type = field.content_type().map(ToString::to_string);
        let Some(file_name) = field.file_name().map(str::to_owned) else {
            let text = form::text(field, limits).await?;
            form.push(Part { name, content_type, holds: Content::Text(text.into()) })?;
            continue;
        };
        form.push(Part { name, content_type, holds: Content::File(file_name) })?;
        let mut spool = Spool::new(&app.config.journal_dir.join(SPOOL)).await.map_err(no_disk)?;
        while let Some(piece) = field.chunk().await.map_err(broken)? {
            if spool.len() + piece.len() as u64 > MAX_AUDIO_BYTES {
                return Err(too_large().into());
            }
            spool.push(piece).await.map_err(no_disk)?;
        }
        file = Some(spool.finish());
    }
    Ok((form, file))
}

fn too_long(stop: Stop) -> Stop {
    match stop {
        Stop::Refused(refused) if refused.code == Code::BodyTooLarge => too_large().into(),
        other => other,
    }
}

fn too_large() -> Rejection {
    let message = "Audio file exceeds maximum upload size of 25 MB";
    Rejection::new(Code::BodyTooLarge, message)
}

fn no_disk(error: std::io::Error) -> Stop {
    let message = "The file cannot be kept while it is passed on. Try again";
    Rejection::new(Code::Unavailable, message).because(error).into()
}
