//! Which models can be called, as far as they are known by price, by declaration, by alias or by routing policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use otari_filters::control::Caller;
use otari_filters::prices::Prices;
use otari_filters::resolve;
use otari_filters::route::Policy;

use super::local::Local;
use crate::clock;

/// A model as it is listed.
#[derive(Clone, Debug)]
pub struct Model {
    /// `provider:model`, or the name of an alias or a routing policy.
    pub id: String,
    /// The provider; `otari` for an alias or a policy.
    pub owner: String,
    /// When its price was made, in seconds since 1970; zero when nobody knows.
    pub created_s: i64,
    /// What it costs now; of a model whose price is still to come, what it will cost.
    pub prices: Option<Arc<Prices>>,
    /// The price is out of the public list.
    pub is_default: bool,
}

impl Local {
    /// The models that this caller may call, by id. The targets of aliases are left out: the alias stands for them. Those
    /// of policies stay: a policy leads to several, and each of them can be asked for by itself.
    pub fn models(&self, caller: &Caller) -> Vec<Model> {
        let (mut models, user_id) = (self.named(caller), user(caller));
        let aliases = self.directory.aliases();
        let mut hidden = Vec::new();
        let policies = self.policies.iter().filter(|policy| {
            // Where there is an alias of this name, the name leads there.
            aliases.target(user_id, &policy.name).is_none()
        });
        let policies: Vec<Model> =
            policies.filter_map(|policy| self.listed(caller, policy, &models)).collect();
        for (name, target) in aliases.visible_to(user_id) {
            // Forbidden, or nobody's: then the alias leads nowhere for this caller.
            let Some(model) = models.get(&**target).cloned() else { continue };
            hidden.push(target.clone());
            models.insert(name.to_owned(), alias(name, model));
        }
        hidden.iter().for_each(|target| drop(models.remove(&**target)));
        models.extend(policies.into_iter().map(|policy| (policy.id.clone(), policy)));
        models.into_values().collect()
    }

    /// One model, in either spelling, an alias or a policy; `None` when there is none that this caller may call.
    pub fn model(&self, caller: &Caller, id: &str) -> Option<Model> {
        let mut models = self.named(caller);
        let aliases = self.directory.aliases();
        if let Some(target) = aliases.target(user(caller), id) {
            return models.remove(&**target).map(|model| alias(id, model));
        }
        if let Some(policy) = self.policy(id) {
            return self.listed(caller, policy, &models);
        }
        let spelled = resolve::split(id).map(|(provider, model)| format!("{provider}:{model}"));
        models.remove(id).or_else(|| spelled.and_then(|id| models.remove(&id)))
    }

    /// A policy as it is listed: at the price of its first target; `None` when the caller may have none of them.
    fn listed(
        &self,
        caller: &Caller,
        policy: &Policy,
        models: &BTreeMap<String, Model>,
    ) -> Option<Model> {
        let (allowed, user_id) = (self.allowed(caller, user(caller)), user(caller));
        let target = self.first_target(policy, user_id, allowed.as_deref())?;
        let instance = &*target.upstream.instance;
        let known = models.get(&format!("{instance}:{}", target.billed_model));
        let model = known.cloned().unwrap_or_else(|| Model {
            id: String::new(),
            owner: String::new(),
            created_s: 0,
            is_default: target.prices.is_some(),
            prices: target.prices,
        });
        Some(alias(&policy.name, model))
    }

    /// What prices and the configuration name, by id.
    fn named(&self, caller: &Caller) -> BTreeMap<String, Model> {
        let allowed = self.allowed(caller, user(caller));
        let mut models = BTreeMap::new();
        for (id, prices, created_s) in self.directory.priced() {
            let (owner, model) = resolve::split(&id).unwrap_or(("unknown", &id));
            if allowed.as_ref().is_none_or(|list| list.permits(owner, model)) {
                let owner = owner.to_owned();
                let prices = Some(prices);
                let model =
                    Model { id: id.to_string(), owner, created_s, prices, is_default: false };
                models.insert(id.into_string(), model);
            }
        }
        for provider in &self.providers {
            let instance = &*provider.upstream.instance;
            for model in &provider.models {
                let id = format!("{instance}:{model}");
                let is_permitted =
                    allowed.as_ref().is_none_or(|list| list.permits(instance, model));
                if !is_permitted || models.contains_key(&id) {
                    continue;
                }
                let now_us = clock::now_us();
                let listed = self.directory.price(instance, provider.upstream.kind, model, now_us);
                let is_default = listed.is_some();
                let prices = listed.map(|listed| listed.prices);
                let owner = instance.to_owned();
                models.insert(id.clone(), Model { id, owner, created_s: 0, prices, is_default });
            }
        }
        models
    }
}

fn user(caller: &Caller) -> &str {
    match caller {
        Caller::Key { user_id: Some(user_id), .. } => user_id,
        _ => "",
    }
}

fn alias(name: &str, target: Model) -> Model {
    Model { id: name.to_owned(), owner: "otari".to_owned(), created_s: 0, ..target }
}
