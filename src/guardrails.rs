//! Checks of what is asked and answered: one after the other, each by the service it names or, for a few profiles, by the
//! gateway itself. What is checked, and what a verdict means, is `otari_filters::guardrails`.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use otari_filters::guardrails::{
    Builtin, Guardrail, Judged, Mode, Verdict, judge, read_service, service_body, unconfigured,
    unreachable,
};
use otari_filters::providers::UNKNOWN;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::upstream::{Draft, Upstream};
use tokio::time::timeout;

use crate::config::Config;
use crate::outbound::{Call, Outbound};
use crate::safety::{self, Admitted, Safety, Unfetched};

#[cfg(test)]
mod tests;

/// For one check.
const CHECK: Duration = Duration::from_secs(30);
/// The longest answer of a service.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// What is asked.
    Input,
    /// What is answered.
    Output,
}

/// Makes the checks of all requests.
pub struct Guardrails {
    rules: otari_filters::addresses::Rules,
    safety: Safety,
    outbound: Outbound,
    /// The operator's service.
    service: Option<Upstream>,
}

/// Who makes a check.
enum Checker {
    Builtin(Builtin),
    /// A service of the caller's.
    Theirs(Admitted),
    /// The operator's.
    Ours,
}

/// The checks of a request, ready to be made.
pub struct Checks(Vec<(Guardrail, Checker)>);

impl Checks {
    /// Whether anything is to be checked at this moment.
    pub fn has(&self, moment: Moment) -> bool {
        self.0.iter().any(|(guardrail, _)| is_at(guardrail, moment))
    }

    /// Whether one of them may refuse at this moment.
    pub fn blocks(&self, moment: Moment) -> bool {
        let blocks = |one: &Guardrail| is_at(one, moment) && one.mode == Mode::Block;
        self.0.iter().any(|(guardrail, _)| blocks(guardrail))
    }
}

fn is_at(guardrail: &Guardrail, moment: Moment) -> bool {
    match moment {
        Moment::Input => guardrail.on_input,
        Moment::Output => guardrail.on_output,
    }
}

impl Guardrails {
    /// What `config` says, over `outbound`.
    pub fn new(config: &Config, safety: Safety, outbound: Outbound) -> Self {
        let service = config.tools.guardrails_url.as_ref().and_then(|url| {
            let draft = Draft {
                instance: "guardrails",
                // No model provider, and so no credential is sent.
                kind: &UNKNOWN,
                base_url: url,
                api_key: None,
                headers: &[],
                client_settings: &[],
                max_retries: 0,
                first_byte_timeout: CHECK,
                idle_timeout: CHECK,
                address: None,
            };
            Upstream::new(&draft).ok()
        });
        Self { rules: config.tools.servers, safety, outbound, service }
    }

    /// Judges what a request asks for, before anything is checked: addresses and options.
    ///
    /// # Errors
    /// `invalid_value`: a service that may not be gone to, or options that are none.
    pub async fn ready(&self, guardrails: &[Guardrail]) -> Result<Checks, Rejection> {
        let invalid = |why: String| Rejection::new(Code::InvalidValue, why);
        let mut checks = Vec::with_capacity(guardrails.len());
        for guardrail in guardrails {
            let checker = match &guardrail.url {
                Some(url) => {
                    let admitted = self.safety.admit(&self.rules, url, false).await;
                    Checker::Theirs(admitted.map_err(|why| invalid(why.0))?)
                }
                None => match Builtin::named(&guardrail.profile, &guardrail.validate_kwargs) {
                    Some(Ok(builtin)) => Checker::Builtin(builtin),
                    Some(Err(why)) => return Err(invalid(why.to_string())),
                    None => Checker::Ours,
                },
            };
            checks.push((guardrail.clone(), checker));
        }
        Ok(Checks(checks))
    }

    /// Makes the checks of a moment on `text`, one after the other.
    ///
    /// # Errors
    /// `guardrail_unavailable` from a check that could not be made and must not be passed over, and no later one is made
    /// then; `guardrail_violation` when all were made and one that blocks refuses.
    pub async fn check(
        &self,
        checks: &Checks,
        moment: Moment,
        text: &str,
    ) -> Result<Vec<Judged>, Rejection> {
        let mut judged = Vec::with_capacity(checks.0.len());
        for (guardrail, checker) in checks.0.iter().filter(|(one, _)| is_at(one, moment)) {
            judged.push(match self.ask(guardrail, checker, text).await {
                Ok(verdict) => guardrail.judged(verdict),
                Err(refusal) => {
                    tracing::warn!(profile = guardrail.profile, error = %refusal, "a check could not be made");
                    guardrail.not_judged(refusal)?
                }
            });
        }
        judge(&judged)?;
        Ok(judged)
    }

    async fn ask(
        &self,
        guardrail: &Guardrail,
        checker: &Checker,
        text: &str,
    ) -> Result<Verdict, Rejection> {
        let profile = &guardrail.profile;
        let answer = match checker {
            Checker::Builtin(builtin) => return within(builtin.clone(), text).await,
            Checker::Ours => {
                let service = self.service.as_ref().ok_or_else(|| unconfigured(profile))?;
                self.ask_ours(service, service_body(guardrail, text)).await
            }
            Checker::Theirs(admitted) => {
                let asking = self.ask_theirs(admitted, service_body(guardrail, text));
                timeout(CHECK, asking).await.unwrap_or_else(|_| Err(Unfetched::Timeout.into()))
            }
        };
        let answer = answer.map_err(|cause| unreachable(profile, cause))?;
        read_service(profile, &answer)
    }

    async fn ask_ours(&self, service: &Upstream, body: Vec<u8>) -> Result<Bytes, Cause> {
        let path: PathAndQuery = format!("{}/validate", service.base_path()).parse()?;
        let call = Call::post(path, body, CHECK, MAX_ANSWER_BYTES);
        let answer = self.outbound.call(service, call).await?;
        if answer.is_success() {
            Ok(answer.body)
        } else {
            Err(Unfetched::Status(answer.status).into())
        }
    }

    async fn ask_theirs(&self, admitted: &Admitted, body: Vec<u8>) -> Result<Bytes, Cause> {
        let mut url = admitted.url.clone();
        let path = format!("{}/validate", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let request = self.safety.client(admitted)?.post(url).body(body);
        let sent = request.header(CONTENT_TYPE, "application/json").send().await;
        let response = sent.map_err(|error| error.without_url())?;
        let status = response.status();
        if !status.is_success() {
            return Err(Unfetched::Status(status.as_u16()).into());
        }
        match safety::read(response, MAX_ANSWER_BYTES).await? {
            (bytes, true) => Ok(bytes),
            (_, false) => Err("its answer is too long".into()),
        }
    }
}

/// Why a service gave no answer, for the log.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A check of the gateway's own. A long text takes a while, and other requests shall not wait for it.
async fn within(builtin: Builtin, text: &str) -> Result<Verdict, Rejection> {
    let text = text.to_owned();
    let checking = tokio::task::spawn_blocking(move || builtin.check(&text));
    checking.await.map_err(Rejection::internal)
}
