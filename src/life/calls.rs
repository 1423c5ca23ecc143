//! The calls to providers that are under way in this process, for an operator who asks what it is waiting for.

use std::sync::Arc;
use std::time::Instant;

use papaya::HashMap;

/// A call to a provider.
#[derive(Debug)]
pub struct Call {
    /// The request's.
    pub id: Box<str>,
    /// Route template.
    pub endpoint: &'static str,
    /// Name in prices and rows.
    pub model: Box<str>,
    /// Instance.
    pub provider: Box<str>,
    /// Who pays.
    pub user_id: Arc<str>,
    /// `None` for the master key.
    pub api_key_id: Option<Arc<str>>,
    /// The routing policy that the request named.
    pub policy_name: Option<Arc<str>>,
    /// Arrival of the request.
    pub started: Instant,
}

/// All calls under way. No lock: every worker enters and leaves without waiting for another.
#[derive(Debug, Default)]
pub struct Calls(HashMap<u128, Arc<Call>>);

/// A call that is entered; it leaves when this is dropped, also by a panic.
#[derive(Debug)]
pub struct Entered {
    calls: Arc<Calls>,
    key: u128,
}

impl Calls {
    /// Enters a call. One request has one: its next attempt takes the place of the one before.
    pub fn enter(self: &Arc<Self>, call: Call) -> Entered {
        // The id is a UUID. One that is not would only share a place.
        let key = uuid::Uuid::try_parse(&call.id).map_or(0, |id| id.as_u128());
        self.0.pin().insert(key, Arc::new(call));
        Entered { calls: self.clone(), key }
    }

    /// The calls that take longest, longest first, at most so many; and how many there are.
    pub fn longest(&self, at_most: usize) -> (Vec<Arc<Call>>, usize) {
        let mut calls: Vec<Arc<Call>> = self.0.pin().values().cloned().collect();
        let total = calls.len();
        calls.sort_unstable_by_key(|call| call.started);
        calls.truncate(at_most);
        (calls, total)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.calls.0.pin().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(started: Instant, model: &str) -> Call {
        Call {
            id: uuid::Uuid::now_v7().to_string().into(),
            endpoint: "/v1/chat/completions",
            model: model.into(),
            provider: "p".into(),
            user_id: "u".into(),
            api_key_id: None,
            policy_name: None,
            started,
        }
    }

    #[test]
    fn the_longest_come_first_and_whoever_ends_leaves() {
        let calls = Arc::new(Calls::default());
        let start = Instant::now();
        let entered: Vec<Entered> = [3, 1, 2]
            .map(|n| calls.enter(call(start + Duration::from_secs(n), &n.to_string())))
            .into();
        let (longest, total) = calls.longest(2);
        let models: Vec<&str> = longest.iter().map(|call| &*call.model).collect();
        assert_eq!((models, total), (vec!["1", "2"], 3));
        drop(entered);
        assert_eq!(calls.longest(2).1, 0);
    }
}
