//! The operations beside generation: embeddings, moderations, rerank, images, speech, transcriptions. Each passes the
//! gates and the walk of every call; only what is asked, and what it costs, differs.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use otari_filters::operations::{self, Content, Kind};
use otari_filters::rejection::{Code, Rejection};
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::call::{Asked, Call, Operation, Stop};
use crate::proxy::form::{Bounds, Form};
use crate::proxy::gates::{self, Asks, Passed};
use crate::proxy::spool::{Spool, Spooled};
use crate::proxy::{RequestContext, body, generate, refusals};

/// The longest recording, as the reference gateway and OpenAI have it.
const MAX_AUDIO_BYTES: u64 = 25 << 20;
/// What a form may have beside its recording: boundaries, heads of its parts, fields.
const MAX_BESIDE: u64 = 1 << 20;
/// The longest value of a field.
const MAX_FIELD: usize = 256 << 10;
/// Folder of recordings on their way, below that of the journal.
const SPOOL: &str = "spool";

/// Serves one operation.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    kind: Kind,
) -> Result<(), Stop> {
    let (operation, body) = read(app, s, ctx.started, kind).await?;
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
        estimate: asked.units.estimate(asked.kind),
        needs_price: asked.kind.needs_price(),
        session_label: None,
    };
    let Passed { plan, open, keeps_user } = gates::pass(app, ctx, &asks).await?;
    let asked = Asked::Operation(operation);
    Ok(Call { asked, body, attachments: None, keeps_user, plan, at: 0, open })
}

/// What is asked, and the JSON that asks it.
async fn read(
    app: &App,
    s: &mut Session,
    started: Instant,
    kind: Kind,
) -> Result<(Operation, Bytes), Stop> {
    if kind != Kind::Transcription {
        let body = body::read(s, &app.live().limits).await?;
        body::check_type(s, &body)?;
        let asked = operations::Asked::read(kind, &body, s.req_header().uri.query())?;
        return Ok((Operation { asked, upload: None }, body));
    }
    let (form, file) = receive(app, s, started).await?;
    let asked = form.read()?;
    let file = file.ok_or_else(|| Rejection::internal("a form passed without its file"))?;
    Ok((Operation { asked, upload: Some((form, file)) }, Bytes::new()))
}

/// The form, with its file on disk. What is no form has no fields: that is said then.
async fn receive(
    app: &App,
    s: &mut Session,
    started: Instant,
) -> Result<(operations::Form, Option<Spooled>), Stop> {
    let limits = app.live().limits.clone();
    let bounds = Bounds {
        max_bytes: MAX_AUDIO_BYTES + MAX_BESIDE,
        silence: limits.request_body_timeout,
        pace: limits.request_body_min_bytes_per_s,
        deadline: started + limits.request_timeout,
    };
    let mut form = operations::Form::default();
    let Some(mut parts) = Form::open(s, bounds).await.map_err(too_long)? else {
        return Ok((form, None));
    };
    let mut file = None;
    while let Some(mut part) = parts.next().await.map_err(too_long)? {
        let name = part.name().to_owned();
        let content_type = part.content_type().map(str::to_owned);
        let Some(file_name) = part.filename().map(str::to_owned) else {
            let holds = Content::Text(part.text(MAX_FIELD).await?.into());
            form.push(operations::Part { name, content_type, holds })?;
            continue;
        };
        form.push(operations::Part { name, content_type, holds: Content::File(file_name) })?;
        let mut spool = Spool::new(&app.config.journal_dir.join(SPOOL)).await.map_err(no_disk)?;
        while let Some(piece) = part.chunk().await.map_err(too_long)? {
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
