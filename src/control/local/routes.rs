//! Where a model's name leads: to one provider, or by a routing policy to several.

use otari_filters::allow::AllowList;
use otari_filters::control::{Attempt, Caller, Plan, Wanted};
use otari_filters::providers::Operation;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::route::Policy;
use otari_filters::upstream::Upstream;

use super::{Local, Table};

impl Local {
    /// What a request may try.
    ///
    /// # Errors
    /// See [`otari_filters::control::ControlPlane::resolve`].
    pub(super) fn plan(
        &self,
        caller: &Caller,
        payer: &str,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Rejection> {
        let allowed = if wanted.is_own { None } else { self.allowed(caller, payer) };
        let table = &**self.table.load();
        // A name of the caller's own wins over one that is everybody's.
        let policy = match self.directory.alias(payer, wanted.model) {
            Some(_) => None,
            None => table.policy(wanted.model),
        };
        if let Some(policy) = policy {
            return self.by_policy(table, policy, payer, allowed.as_deref(), wanted);
        }
        let one = self.target(table, payer, allowed.as_deref(), wanted.model, wanted)?;
        Ok(Plan { attempts: vec![one], ..Plan::default() })
    }

    /// Whether there is a routing policy of this name.
    pub fn has_policy(&self, name: &str) -> bool {
        self.table.load().policy(name).is_some()
    }

    /// The first target of a policy that this caller may have, whatever API they speak.
    pub(in crate::control) fn first_target(
        &self,
        table: &Table,
        policy: &Policy,
        payer: &str,
        allowed: Option<&AllowList>,
    ) -> Option<Attempt> {
        policy.targets().find_map(|selector| {
            let target = self.directory.alias(payer, selector);
            let (provider, model) = self.find(table, target.as_deref().unwrap_or(selector)).ok()?;
            let attempt = self.attempt(provider, model);
            let (instance, model) = (&attempt.upstream.instance, &attempt.billed_model);
            allowed.is_none_or(|list| list.permits(instance, model)).then_some(attempt)
        })
    }

    /// The targets of a policy that this caller may have, in the order of this request's draw.
    fn by_policy(
        &self,
        table: &Table,
        policy: &Policy,
        payer: &str,
        allowed: Option<&AllowList>,
        wanted: Wanted<'_>,
    ) -> Result<Plan, Rejection> {
        let needs_price = self.settings.load().require_pricing;
        let (mut attempts, mut refused, mut unpriced) = (Vec::new(), None, None);
        for choice in policy.order(&mut draw, wanted.no_router) {
            match self.target(table, payer, allowed, choice.selector, wanted) {
                Ok(target) => {
                    let position = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
                    let reason = Some(choice.reason);
                    let target = Attempt { is_alias: true, position, reason, ..target };
                    // What must have a price and has none cannot stand in for what has one.
                    if needs_price && target.prices.is_none() {
                        unpriced.get_or_insert(target);
                    } else {
                        attempts.push(target);
                    }
                }
                Err(why) => drop(refused.get_or_insert(why)),
            }
        }
        attempts.extend(unpriced.filter(|_| attempts.is_empty()));
        match refused {
            Some(refused) if attempts.is_empty() => Err(refused),
            _ => Ok(Plan { attempts, request_id: None, policy: Some(policy.name.clone()) }),
        }
    }

    /// Where one selector leads, if this caller may go there.
    fn target(
        &self,
        table: &Table,
        payer: &str,
        allowed: Option<&AllowList>,
        selector: &str,
        wanted: Wanted<'_>,
    ) -> Result<Attempt, Rejection> {
        let target = self.directory.alias(payer, selector);
        let found = self.find(table, target.as_deref().unwrap_or(selector));
        let found = found.map(|(provider, name)| self.attempt(provider, name));
        if let Some(allowed) = allowed {
            // A name that leads nowhere is not permitted either: the refusal says nothing of what there is.
            let is_permitted = found.as_ref().is_ok_and(|attempt| {
                allowed.permits(&attempt.upstream.instance, &attempt.billed_model)
            });
            if !is_permitted {
                let message =
                    format!("Model '{}' is not permitted for this API key.", wanted.model);
                return Err(Rejection::new(Code::ModelNotPermitted, message));
            }
        }
        let attempt = match found {
            Err(_) if target.is_some() => {
                let message =
                    format!("Alias '{selector}' stands for a provider that is not configured");
                return Err(Rejection::new(Code::ModelNotFound, message));
            }
            found => found?,
        };
        let kind = attempt.upstream.kind;
        let is_served = match wanted.operation {
            Operation::Chat => kind.generates(),
            operation => kind.offers(operation),
        };
        if !is_served {
            return Err(unserved(&attempt.upstream, wanted.operation));
        }
        Ok(Attempt { is_alias: target.is_some(), ..attempt })
    }
}

/// A uniform number in `[0, 1)`.
fn draw() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness every request goes the same way, which is better than none going anywhere.
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::warn!(%error, "no random numbers: weighted targets are not drawn");
    }
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// The provider does not do what it is wanted for.
fn unserved(upstream: &Upstream, operation: Operation) -> Rejection {
    let (instance, name) = (&upstream.instance, upstream.kind.display_name);
    let message = match operation {
        Operation::Chat => format!(
            "Provider '{instance}' ({name}) does not generate text: it cannot be called through this route"
        ),
        Operation::Moderation => format!("Provider {instance} does not support moderation"),
        other => format!(
            "Provider '{instance}' ({name}) does not offer {}: ask for a model of a provider that does",
            other.as_str()
        ),
    };
    Rejection::new(Code::Unsupported, message)
}
