//! Whether providers answer: each is asked for the list of its models, all at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use otari_filters::providers::{Family, Operation};
use otari_filters::upstream::Upstream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::super::client::{Failure, sentence};
use crate::app::upstream;
use crate::config::{Config, CredentialSource, ProviderConfig};
use crate::credentials::Credentials;
use crate::outbound::{self, Error, ListError, Outbound};

/// From the first byte sent to the last one received, a short-lived credential included.
const WHOLE: Duration = Duration::from_secs(5);
/// Providers that are asked at the same time.
const AT_ONCE: usize = 16;

/// What came of asking a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It answered; how many models it lists.
    Ok(usize),
    /// It is in this binary.
    BuiltIn,
    /// It answered that it has no such list, with this status.
    NoSuchList(u16),
    /// It did not take the credential: the status.
    Refused(u16),
    /// It is there and wants fewer calls.
    Limited,
    /// No answer, or none of a provider.
    Unreachable(String),
    /// There is no credential to ask with.
    NoCredential,
    /// Its API has no list to ask for.
    NoList,
    /// Whoever issues credentials gave none.
    NotIssued(String),
}

impl Reach {
    /// Whether nothing speaks against calling it.
    pub(super) fn is_usable(&self) -> bool {
        !matches!(
            self,
            Self::Refused(_) | Self::Unreachable(_) | Self::NoCredential | Self::NotIssued(_)
        )
    }

    /// How many models it lists, where it said so.
    pub(super) fn models(&self) -> Option<usize> {
        match self {
            Self::Ok(models) => Some(*models),
            _ => None,
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(1) => f.write_str("ok (1 model)"),
            Self::Ok(models) => write!(f, "ok ({models} models)"),
            Self::BuiltIn => f.write_str("ok (built in)"),
            Self::NoSuchList(status) => write!(f, "answers, but lists no models ({status})"),
            Self::Refused(status) => write!(f, "credential refused ({status})"),
            Self::Limited => f.write_str("answers, but limits the rate (429)"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::NoCredential => f.write_str("not asked: no credential"),
            Self::NoList => f.write_str("no list endpoint"),
            Self::NotIssued(why) => write!(f, "no credential: {why}"),
        }
    }
}

impl From<ListError> for Reach {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Unsupported => Self::NoList,
            ListError::Refused(status) => Self::Refused(status),
            ListError::NoSuchList(status) => Self::NoSuchList(status),
            ListError::Limited => Self::Limited,
            ListError::Failed(Error::Timeout) => {
                Self::Unreachable(format!("no answer within {} s", WHOLE.as_secs()))
            }
            ListError::Failed(Error::Connect(why) | Error::Broken(why)) => {
                Self::Unreachable(why.to_string())
            }
            ListError::Failed(Error::Credential(failure)) => Self::NotIssued(failure.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

/// A question that is ready to be sent, or what is known without one.
enum Question {
    Ask(Arc<Upstream>),
    Known(Reach),
}

/// Asks every provider of the configuration; the answers in its order.
///
/// # Errors
/// When nothing can be sent at all.
pub(super) fn all(config: &Config) -> Result<Vec<Reach>, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Failed(sentence(error));
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let questions: Vec<Question> =
        config.providers.iter().map(|provider| question(provider, config)).collect();
    Ok(runtime.block_on(async {
        let credentials = Credentials::new(config.ambient.clone());
        let outbound = Outbound::new(credentials.clone());
        let issuing = async {
            credentials.run().await;
            std::future::pending().await
        };
        tokio::select! {
            reaches = ask(questions, &outbound) => reaches,
            reaches = issuing => reaches,
        }
    }))
}

async fn ask(questions: Vec<Question>, outbound: &Outbound) -> Vec<Reach> {
    let broken = || Reach::Unreachable("asking it failed".to_owned());
    let mut reaches: Vec<Reach> = questions.iter().map(|_| broken()).collect();
    let mut asked = JoinSet::new();
    for (at, question) in questions.into_iter().enumerate() {
        match question {
            Question::Known(reach) => reaches[at] = reach,
            Question::Ask(upstream) => {
                if asked.len() >= AT_ONCE
                    && let Some(Ok((at, reach))) = asked.join_next().await
                {
                    reaches[at] = reach;
                }
                let outbound = outbound.clone();
                asked.spawn(async move {
                    let listed = outbound::models(&outbound, &upstream, WHOLE).await;
                    let reach = listed.map_or_else(Reach::from, |models| Reach::Ok(models.len()));
                    (at, reach)
                });
            }
        }
    }
    while let Some(answered) = asked.join_next().await {
        if let Ok((at, reach)) = answered {
            reaches[at] = reach;
        }
    }
    reaches
}

fn question(provider: &ProviderConfig, config: &Config) -> Question {
    let kind = provider.kind;
    if kind.family == Family::Mock && provider.base_url.is_none() {
        return Question::Known(Reach::BuiltIn);
    }
    if provider.credential == CredentialSource::Missing {
        return Question::Known(Reach::NoCredential);
    }
    if !kind.offers(Operation::ListModels) {
        return Question::Known(Reach::NoList);
    }
    match upstream(provider, config, None) {
        Ok(upstream) => Question::Ask(Arc::new(upstream)),
        Err(what) => Question::Known(Reach::Unreachable(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Sources, load};
    use crate::credentials::CredentialFailure;

    fn asked(yaml: &str) -> Vec<Question> {
        let env = Env::from_pairs([("OTARI_CONFIG_YAML", yaml)]);
        let config = load(&Sources { env, ..Sources::default() }).unwrap();
        config.providers.iter().map(|provider| question(provider, &config)).collect()
    }

    #[test]
    fn some_are_known_without_asking() {
        for (yaml, state, is_usable) in [
            ("openai: ", "not asked: no credential", false),
            ("mock: ", "ok (built in)", true),
            ("perplexity: {api_key: k}", "no list endpoint", true),
            ("sagemaker: {region_name: eu-west-1}", "no list endpoint", true),
        ] {
            match asked(&format!("providers: {{{yaml}}}")).remove(0) {
                Question::Known(reach) => {
                    assert_eq!((reach.to_string().as_str(), reach.is_usable()), (state, is_usable));
                }
                Question::Ask(_) => panic!("{yaml}"),
            }
        }
    }

    #[test]
    fn what_came_of_asking_is_said_in_words() {
        let credential = CredentialFailure::Busy;
        for (error, state, is_usable) in [
            (ListError::NoSuchList(404), "answers, but lists no models (404)", true),
            (ListError::Refused(401), "credential refused (401)", false),
            (ListError::Failed(Error::Timeout), "unreachable: no answer within 5 s", false),
            (
                ListError::Status(302),
                "unreachable: it leads elsewhere (302). Is api_base right?",
                false,
            ),
            (
                ListError::Failed(Error::Credential(credential)),
                "no credential: too many credentials are being asked for at once",
                false,
            ),
        ] {
            let reach = Reach::from(error);
            assert_eq!((reach.to_string().as_str(), reach.is_usable()), (state, is_usable));
        }
    }
}
