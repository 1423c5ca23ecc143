//! Which models can be called: those that providers list, and those known by price, by declaration, by alias or by
//! routing policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use otari_filters::control::Caller;
use otari_filters::prices::Prices;
use otari_filters::providers::list::Listed;
use otari_filters::resolve;
use otari_filters::route::Policy;

use super::local::{Configured, Local, Table};
use crate::clock;

/// A model as it is listed.
#[derive(Clone, Debug)]
pub struct Model {
    /// `provider:model`, or the name of an alias or a routing policy.
    pub id: String,
    /// The provider; `otari` for an alias or a policy.
    pub owner: String,
    /// When it was made as its provider says, else when its price was made, in seconds since 1970; zero when nobody
    /// knows.
    pub created_s: i64,
    /// What it costs now; of a model whose price is still to come, what it will cost.
    pub prices: Option<Arc<Prices>>,
    /// The price is out of the public list.
    pub is_default: bool,
    /// What its provider says of it.
    pub listed: Option<Arc<Listed>>,
}

impl Local {
    /// The models that this caller may call, by id. The targets of aliases are left out: the alias stands for them. Those
    /// of policies stay: a policy leads to several, and each of them can be asked for by itself.
    pub fn models(&self, caller: &Caller) -> Vec<Model> {
        let (mut models, user_id) = (self.named(caller), user(caller));
        let (aliases, table) = (self.directory.aliases(), self.table.load());
        let mut hidden = Vec::new();
        let policies = table.policies.iter().filter(|policy| {
            // Where there is an alias of this name, the name leads there.
            aliases.target(user_id, &policy.name).is_none()
        });
        let policies: Vec<Model> =
            policies.filter_map(|policy| self.listed(caller, &table, policy, &models)).collect();
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
        let (aliases, table) = (self.directory.aliases(), self.table.load());
        if let Some(target) = aliases.target(user(caller), id) {
            return models.remove(&**target).map(|model| alias(id, model));
        }
        if let Some(policy) = table.policy(id) {
            return self.listed(caller, &table, policy, &models);
        }
        if let Some(model) = models.remove(id) {
            return Some(model);
        }
        // The other spelling, or a bare name.
        let (provider, model) = self.find(&table, id).ok()?;
        models.remove(&format!("{}:{model}", provider.upstream.instance))
    }

    /// The provider whose list decides whether there is a model of this name; `None`: nobody's, or this caller may not
    /// call it.
    pub fn lister(&self, caller: &Caller, id: &str) -> Option<Box<str>> {
        let table = self.table.load();
        let target = self.directory.aliases().target(user(caller), id).cloned();
        let (provider, model) = self.find(&table, target.as_deref().unwrap_or(id)).ok()?;
        let instance = &*provider.upstream.instance;
        self.permits(caller, user(caller), instance, model).then(|| instance.into())
    }

    /// A policy as it is listed: at the price of its first target; `None` when the caller may have none of them.
    fn listed(
        &self,
        caller: &Caller,
        table: &Table,
        policy: &Policy,
        models: &BTreeMap<String, Model>,
    ) -> Option<Model> {
        let (allowed, user_id) = (self.allowed(caller, user(caller)), user(caller));
        let target = self.first_target(table, policy, user_id, allowed.as_deref())?;
        let instance = &*target.upstream.instance;
        let known = models.get(&format!("{instance}:{}", target.billed_model));
        let model = known.cloned().unwrap_or_else(|| Model {
            id: String::new(),
            owner: String::new(),
            created_s: 0,
            is_default: target.prices.is_some(),
            prices: target.prices,
            listed: None,
        });
        Some(alias(&policy.name, model))
    }

    /// What prices, the configuration and providers name, by id.
    fn named(&self, caller: &Caller) -> BTreeMap<String, Model> {
        let (allowed, table) = (self.allowed(caller, user(caller)), self.table.load());
        let mut models = BTreeMap::new();
        for (id, prices, created_s) in self.directory.priced() {
            let (owner, model) = resolve::split(&id).unwrap_or(("unknown", &id));
            // A search is not a model.
            let is_tool = table
                .search_tools
                .iter()
                .any(|(engine, tool)| (*engine, &**tool) == (owner, model));
            if !is_tool && allowed.as_ref().is_none_or(|list| list.permits(owner, model)) {
                let owner = owner.to_owned();
                let model = Model {
                    id: id.to_string(),
                    owner,
                    created_s,
                    prices: Some(prices),
                    is_default: false,
                    listed: None,
                };
                models.insert(id.into_string(), model);
            }
        }
        for provider in &table.providers {
            let instance = &*provider.upstream.instance;
            let permits =
                |model: &str| allowed.as_ref().is_none_or(|list| list.permits(instance, model));
            for model in provider.models.iter().filter(|model| permits(model)) {
                let id = format!("{instance}:{model}");
                models.entry(id).or_insert_with_key(|id| self.unpriced(provider, id, model));
            }
            let known = self.discovery.known(instance);
            let listed = known.iter().flat_map(|known| known.models());
            for listed in listed.filter(|listed| permits(&listed.id)) {
                let id = format!("{instance}:{}", listed.id);
                let model = models
                    .entry(id)
                    .or_insert_with_key(|id| self.unpriced(provider, id, &listed.id));
                if listed.created_s > 0 {
                    model.created_s = listed.created_s;
                }
                model.listed = Some(listed.clone());
            }
        }
        models
    }

    /// A model that no stored price names under this id.
    fn unpriced(&self, provider: &Configured, id: &str, model: &str) -> Model {
        let (instance, kind) = (&*provider.upstream.instance, provider.upstream.kind);
        let price = self.directory.price(instance, kind, model, clock::now_us());
        Model {
            id: id.to_owned(),
            owner: instance.to_owned(),
            created_s: 0,
            // The older spelling of its price is a stored one too.
            is_default: price.is_some()
                && !self.directory.has_price(&format!("{instance}/{model}")),
            prices: price.map(|price| price.prices),
            listed: None,
        }
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
