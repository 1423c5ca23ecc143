//! What a generation wants the gateway itself to run: made ready before a provider is asked, and run between the rounds.

use std::sync::Arc;
use std::time::Duration;

use otari_filters::control::Caller;
use otari_filters::guardrails::{input_text, output_text};
use otari_filters::protocol::{Protocol, Request};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::tools::{self, Options, ToolCall, ToolResult, Turn, Wanted, rounds_exceeded};

use crate::app::{App, Mode};
use crate::guardrails::{Checks, Moment};
use crate::proxy::call::{Asked, Call};
use crate::proxy::{RequestContext, attach};
use crate::tools::Toolbox;

/// What is run for one request.
pub(super) struct Tools {
    toolbox: Toolbox,
    checks: Checks,
    /// How its stream looks.
    pub(super) options: Options,
    /// The names of the tools.
    pub(super) owned: tools::Owned,
    /// How often the model is asked at most.
    rounds: u32,
}

/// What the request wants run or checked; `None`: nothing, as most.
///
/// # Errors
/// `invalid_fields`.
pub(super) fn claim(app: &App, call: &Call) -> Result<Option<Wanted>, Rejection> {
    let Asked::Generation(request) = &call.asked else { return Ok(None) };
    let wanted = tools::claim(request, &call.body, app.kit.config().intercepts())?;
    Ok((wanted.needs_loop() || !wanted.guardrails.is_empty()).then_some(wanted))
}

/// Makes ready what is wanted: checks are made, tools connected, and the body says what they are. `None`: what was asked
/// has been checked, and is answered as it is.
///
/// # Errors
/// `guardrail_violation`, `guardrail_unavailable`; `invalid_value` and `unsupported` for what cannot be run;
/// `tool_unavailable`; what the platform says; `budget_exceeded` for the longer prompt.
pub(super) async fn ready(
    app: &Arc<App>,
    ctx: &mut RequestContext,
    call: &mut Call,
    mut wanted: Wanted,
) -> Result<Option<Tools>, Rejection> {
    let protocol = call.asked.protocol();
    let checks = app.guardrails.ready(&wanted.guardrails).await?;
    if checks.has(Moment::Input) {
        check_input(app, ctx, call, protocol, &checks).await?;
    }
    if wanted.needs_loop() {
        ask_platform(app, ctx, &mut wanted).await?;
    } else if !checks.has(Moment::Output) {
        return Ok(None);
    }
    let token = match &ctx.caller {
        Some(Caller::Bearer(token)) => Some(&**token),
        _ => None,
    };
    let toolbox = Toolbox::open(&app.kit, &wanted, token).await?;
    let mut options = Options::default();
    if wanted.needs_loop()
        && let Err(refused) = offer(app, call, &wanted, &toolbox).await
    {
        toolbox.close().await;
        return Err(refused);
    }
    if let Asked::Generation(request) = &call.asked {
        options = Options::of(request, &call.body, &wanted);
    }
    Ok(Some(Tools { owned: toolbox.owned(), toolbox, checks, options, rounds: wanted.rounds }))
}

/// Checks what is asked, with the text of its documents.
async fn check_input(
    app: &Arc<App>,
    ctx: &mut RequestContext,
    call: &mut Call,
    protocol: Protocol,
    checks: &Checks,
) -> Result<(), Rejection> {
    if call.attachments.is_some() {
        let attempt = call.attempt().clone();
        attach::fit(app, ctx, call, &attempt).await?;
    }
    let rendered = call.attachments.as_ref().and_then(|attached| attached.rendered());
    let body = rendered.map_or(&call.body, |rendered| &rendered.body);
    let text = input_text(protocol, body);
    let judged = app.guardrails.check(checks, Moment::Input, &text).await;
    app.metrics.checked("input", judged.as_deref());
    ctx.judged = judged?;
    Ok(())
}

/// What the workspace says of the tools, where a platform decides; and whether this gateway has them.
async fn ask_platform(
    app: &App,
    ctx: &RequestContext,
    wanted: &mut Wanted,
) -> Result<(), Rejection> {
    let config = app.kit.config();
    let (Mode::Connected(platform), Some(caller)) = (&app.mode, &ctx.caller) else {
        return wanted.check(config.backends(false));
    };
    if !wanted.mcp_ids.is_empty() {
        wanted.add_servers(platform.mcp_servers(caller, &wanted.mcp_ids).await?);
    }
    wanted.check(config.backends(true))?;
    if wanted.code.is_some() {
        wanted.merge_code(&platform.code_execution(caller).await?);
    }
    if wanted.search.is_some() {
        wanted.merge_search(&platform.web_search(caller).await?);
    }
    Ok(())
}

/// Puts the tools into the request.
async fn offer(
    app: &App,
    call: &mut Call,
    wanted: &Wanted,
    toolbox: &Toolbox,
) -> Result<(), Rejection> {
    let protocol = call.asked.protocol();
    let body = tools::prepare(protocol, &call.body, wanted, toolbox.offer())?;
    let request = Request::read(protocol, &body)?;
    if let Some(attached) = &mut call.attachments {
        attached.follow(&body);
    }
    let prices = call.attempt().prices.clone();
    call.open.cover_prompt(request.prompt_chars, prices.as_deref()).await?;
    call.set_body(request, body);
    if let Some(platform) = &app.config.platform {
        let more =
            platform.tool_loop_first_event_timeout.saturating_sub(platform.first_event_timeout);
        let less =
            platform.first_event_timeout.saturating_sub(platform.tool_loop_first_event_timeout);
        let shift = |at: Duration| (at + more).saturating_sub(less);
        for attempt in &mut call.plan.attempts {
            attempt.first_event_timeout = attempt.first_event_timeout.map(shift);
        }
    }
    Ok(())
}

impl Tools {
    /// Whether what is answered is checked.
    pub(super) fn checks_output(&self) -> bool {
        self.checks.has(Moment::Output)
    }

    /// Whether it must not be seen before it has been checked.
    pub(super) fn blocks_output(&self) -> bool {
        self.checks.blocks(Moment::Output)
    }

    /// Checks what is answered.
    ///
    /// # Errors
    /// `guardrail_violation`, `guardrail_unavailable`: the caller must not see it.
    pub(super) async fn check_text(
        &self,
        app: &App,
        ctx: &mut RequestContext,
        text: &str,
    ) -> Result<(), Rejection> {
        let judged = app.guardrails.check(&self.checks, Moment::Output, text).await;
        app.metrics.checked("output", judged.as_deref());
        ctx.judged.extend(judged?);
        Ok(())
    }

    /// The same of a whole answer.
    ///
    /// # Errors
    /// As [`Tools::check_text`].
    pub(super) async fn check_answer(
        &self,
        app: &App,
        ctx: &mut RequestContext,
        answer: &[u8],
    ) -> Result<(), Rejection> {
        if !self.checks_output() {
            return Ok(());
        }
        self.check_text(app, ctx, &output_text(ctx.protocol, answer)).await
    }

    /// Whether the model may be asked once more after `round` answers.
    ///
    /// # Errors
    /// `tool_rounds`.
    pub(super) fn may_go_on(&self, round: u32) -> Result<(), Rejection> {
        if round < self.rounds { Ok(()) } else { Err(rounds_exceeded(self.rounds)) }
    }

    /// Runs the calls of a round; what went wrong is for the model to read.
    pub(super) async fn run(&self, app: &App, calls: &[ToolCall]) -> Vec<ToolResult> {
        let results = self.toolbox.run(calls).await;
        for result in &results {
            app.metrics.tool_called(self.toolbox.kind(), result.is_error());
        }
        results
    }

    /// Ends the sessions.
    pub(super) async fn close(self) {
        self.toolbox.close().await;
    }
}

/// Makes the request of the next round, and lets the hold grow to it.
///
/// # Errors
/// `budget_exceeded`; `body_too_large` when the conversation has become longer than a request may be.
pub(super) async fn next_round(
    app: &App,
    call: &mut Call,
    turn: &Turn,
    results: &[ToolResult],
) -> Result<(), Rejection> {
    let protocol = call.asked.protocol();
    let body = tools::append(protocol, &call.body, turn, results)?;
    let most = app.live().limits.max_request_bytes;
    if body.len() > most {
        let message = format!(
            "The results of the tools have made the conversation longer than {most} bytes (max_request_bytes)"
        );
        return Err(Rejection::new(Code::BodyTooLarge, message));
    }
    let request = Request::read(protocol, &body)?;
    call.open.next_round(request.prompt_chars, request.stream).await?;
    call.set_body(request, body);
    Ok(())
}
