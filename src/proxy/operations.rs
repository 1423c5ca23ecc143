//! The operations beside generation: embeddings, moderations, rerank, images, speech, transcriptions. Each passes the
//! gates and the walk of every call; only what is asked, and what it costs, differs.

use std::sync::Arc;

use bytes::Bytes;
use otari_filters::operations::{self, Kind};
use otari_filters::rejection::Rejection;
use pingora_proxy::Session;

use crate::app::App;
use crate::proxy::call::{Asked, Call, Operation, Stop};
use crate::proxy::gates::{self, Asks, Passed};
use crate::proxy::upload::Upload;
use crate::proxy::{RequestContext, body, generate, refusals};

/// Serves one operation.
pub(super) async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    kind: Kind,
) -> Result<(), Stop> {
    let (operation, body) = read(app, s, ctx, kind).await?;
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

/// What is asked, and the JSON that asks it. Of a form with a file perhaps no more is here than the fields.
async fn read(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &RequestContext,
    kind: Kind,
) -> Result<(Operation, Bytes), Stop> {
    if kind != Kind::Transcription {
        let body = body::read(s, &app.live().limits).await?;
        body::check_type(s, &body)?;
        let asked = operations::Asked::read(kind, &body, s.req_header().uri.query())?;
        return Ok((Operation { asked, upload: None }, body));
    }
    let (upload, asked) = Upload::receive(app, s, ctx).await?;
    Ok((Operation { asked, upload: Some(upload) }, Bytes::new()))
}
