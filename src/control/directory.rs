//! Keys, users' lists of models, aliases and prices in memory: what the request path looks up, kept in step by the
//! management API.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use otari_filters::alias::Aliases;
use otari_filters::allow::AllowList;
use otari_filters::control::Caller;
use otari_filters::limit::UnderWay;
use otari_filters::prices::Prices;
use otari_filters::providers::Provider;
use otari_filters::rejection::{Code, Rejection};
use papaya::{HashMap, Operation};
use sha2::{Digest, Sha256};

use crate::control::default_prices::{DefaultPrices, Listed};
use crate::store::{AliasRow, Everything, KeyRow, PriceRow, UserRow};

/// `last_used_at` is written at most once in this time: a request must not cost a write.
const TOUCH_EVERY_US: i64 = 300_000_000;

/// SHA-256 of a key.
pub type KeyDigest = [u8; 32];

/// What a request needs to know of an API key.
#[derive(Debug)]
pub struct Key {
    /// Id of the row.
    pub id: Arc<str>,
    /// Whom it belongs to.
    pub user_id: Option<Arc<str>>,
    /// `false`: revoked.
    pub is_active: bool,
    /// Microseconds since 1970.
    pub expires_at_us: Option<i64>,
    /// What it may call; `None`: what its user may.
    pub allowed: Option<Arc<AllowList>>,
    /// Its calls are recorded, and neither held nor charged.
    pub excluded: bool,
    /// Overrides the setting `reject_user_mismatch`.
    pub rejects_mismatch: Option<bool>,
    /// Its requests under way.
    calls: UnderWay,
    /// Those of its user.
    user_calls: Option<UnderWay>,
    last_used_us: AtomicI64,
}

impl Key {
    /// Notes a use; says whether it is worth a write.
    pub fn touch(&self, now_us: i64) -> bool {
        let last = self.last_used_us.load(Ordering::Relaxed);
        now_us - last >= TOUCH_EVERY_US
            && self
                .last_used_us
                .compare_exchange(last, now_us, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Its holder.
    pub fn caller(&self) -> Caller {
        Caller::Key {
            id: self.id.clone(),
            user_id: self.user_id.clone(),
            excluded: self.excluded,
            rejects_mismatch: self.rejects_mismatch,
            allowed: self.allowed.clone(),
            calls: self.calls.clone(),
            user_calls: self.user_calls.clone(),
        }
    }

    /// Whether it may be used now.
    ///
    /// # Errors
    /// `inactive_key`, `expired_key`.
    pub fn check(&self, now_us: i64) -> Result<(), Rejection> {
        if !self.is_active {
            return Err(Rejection::new(Code::InactiveKey, "API key is inactive"));
        }
        if self.expires_at_us.is_some_and(|expires| expires < now_us) {
            return Err(Rejection::new(Code::ExpiredKey, "API key has expired"));
        }
        Ok(())
    }

    fn switched_off(&self) -> Self {
        Self {
            id: self.id.clone(),
            user_id: self.user_id.clone(),
            is_active: false,
            expires_at_us: self.expires_at_us,
            allowed: self.allowed.clone(),
            excluded: self.excluded,
            rejects_mismatch: self.rejects_mismatch,
            calls: self.calls.clone(),
            user_calls: self.user_calls.clone(),
            last_used_us: AtomicI64::new(self.last_used_us.load(Ordering::Relaxed)),
        }
    }
}

/// The price of a model from an instant on.
#[derive(Clone, Debug)]
struct PricePoint {
    from_us: i64,
    /// Whatever the time is: it was in force when it was made, by a clock that may have been set back since.
    is_begun: bool,
    created_us: i64,
    prices: Arc<Prices>,
}

/// All keys, lists, aliases and prices.
#[derive(Debug, Default)]
pub struct Directory {
    keys: HashMap<KeyDigest, Arc<Key>, BuildHasherDefault<OfDigest>>,
    /// Digest by key id, for changes.
    digests: HashMap<Box<str>, KeyDigest>,
    /// Requests under way of every user who has a key.
    user_calls: HashMap<Arc<str>, UnderWay>,
    /// Lists of the users who have one.
    lists: HashMap<Box<str>, Arc<AllowList>>,
    /// Read as a whole, and replaced as one: changes are rare.
    aliases: ArcSwap<Aliases>,
    /// By model key; each list ascending by instant.
    prices: HashMap<Box<str>, Arc<[PricePoint]>>,
    /// For models without a price in `prices`.
    pub default_prices: DefaultPrices,
}

/// The hash of a digest: a part of it, because a digest is as good as random. What is looked for may be chosen to share
/// that part with a key; it is not put in, so it makes no list long.
#[derive(Debug, Default)]
struct OfDigest(u64);

impl Hasher for OfDigest {
    fn write(&mut self, bytes: &[u8]) {
        // The length of an array is not told, or told before it.
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The digest under which a key is known.
pub fn digest(token: &str) -> KeyDigest {
    Sha256::digest(token.as_bytes()).into()
}

/// A digest as the store spells it.
pub fn hex(digest: &KeyDigest) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a digest back; `None` when it is none.
pub fn unhex(text: &str) -> Option<KeyDigest> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

impl Directory {
    /// The key with this id.
    pub fn key_of(&self, id: &str) -> Option<Arc<Key>> {
        let digest = *self.digests.pin().get(id)?;
        self.key(&digest)
    }

    /// The key with this digest.
    pub fn key(&self, digest: &KeyDigest) -> Option<Arc<Key>> {
        self.keys.pin().get(digest).cloned()
    }

    /// Takes over a key, new or changed.
    pub fn put_key(&self, row: &KeyRow) {
        let Some(digest) = unhex(&row.key_hash) else {
            tracing::warn!(key.id = row.id, "a key's hash is not a SHA-256 and can never match");
            return;
        };
        let last_used = row.last_used_at.map_or(0, |at| at.as_microsecond());
        let user_id: Option<Arc<str>> =
            row.user_id.as_deref().filter(|user| !user.is_empty()).map(Arc::from);
        let key = Key {
            id: row.id.as_str().into(),
            // What is under way goes on under a key that changes.
            calls: self.key_of(&row.id).map(|before| before.calls.clone()).unwrap_or_default(),
            user_calls: user_id.as_ref().map(|user| self.user_calls(user)),
            user_id,
            is_active: row.is_active,
            expires_at_us: row.expires_at.map(|at| at.as_microsecond()),
            allowed: row.allowed_models.as_deref().map(|list| Arc::new(AllowList::stored(list))),
            excluded: row.exclude_from_budget,
            rejects_mismatch: row.reject_user_mismatch,
            last_used_us: AtomicI64::new(last_used),
        };
        if let Some(before) = self.digests.pin().insert(row.id.as_str().into(), digest)
            && *before != digest
        {
            self.keys.pin().remove(before);
        }
        self.keys.pin().insert(digest, Arc::new(key));
    }

    fn user_calls(&self, user_id: &Arc<str>) -> UnderWay {
        self.user_calls.pin().get_or_insert_with(user_id.clone(), UnderWay::default).clone()
    }

    /// Forgets a key.
    pub fn remove_key(&self, id: &str) {
        if let Some(digest) = self.digests.pin().remove(id) {
            self.keys.pin().remove(digest);
        }
    }

    /// Takes over everything as the database has it, what is gone from it included.
    pub fn replace(&self, everything: &Everything) {
        let keys: HashSet<&str> = everything.keys.iter().map(|row| row.id.as_str()).collect();
        let digests = self.digests.pin();
        let gone: Vec<Box<str>> =
            digests.keys().filter(|id| !keys.contains(&***id)).cloned().collect();
        gone.iter().for_each(|id| self.remove_key(id));
        everything.keys.iter().for_each(|row| self.put_key(row));
        everything.users.iter().for_each(|row| self.put_user(row));
        let priced: HashSet<&str> =
            everything.prices.iter().map(|row| row.model_key.as_str()).collect();
        self.prices.pin().retain(|key, _| priced.contains(&**key));
        self.put_prices(&everything.prices);
    }

    /// Switches off all keys of a user.
    pub fn deactivate_keys_of(&self, user_id: &str) {
        let keys = self.keys.pin();
        let theirs = |key: &Key| key.is_active && key.user_id.as_deref() == Some(user_id);
        let found: Vec<(KeyDigest, Key)> = keys
            .iter()
            .filter(|(_, key)| theirs(key))
            .map(|(digest, key)| (*digest, key.switched_off()))
            .collect();
        for (digest, key) in found {
            keys.insert(digest, Arc::new(key));
        }
    }

    /// Takes over a user's list of models, new, changed or gone.
    pub fn put_user(&self, row: &UserRow) {
        let lists = self.lists.pin();
        match &row.allowed_models {
            Some(list) => {
                lists.insert(row.user_id.as_str().into(), Arc::new(AllowList::stored(list)))
            }
            None => lists.remove(row.user_id.as_str()),
        };
    }

    /// What keys of this user without a list of their own may call; `None`: everything.
    pub fn allowed(&self, user_id: &str) -> Option<Arc<AllowList>> {
        self.lists.pin().get(user_id).cloned()
    }

    /// Takes over all aliases: those of the configuration, and the stored ones.
    pub fn set_aliases(&self, configured: &[(String, String)], stored: &[AliasRow]) {
        let configured = configured.iter().map(|(name, target)| (&**name, &**target));
        let mut aliases = Aliases::configured(configured);
        for row in stored {
            aliases.put(&row.name, row.user_id.as_deref(), &row.target);
        }
        self.aliases.store(Arc::new(aliases));
    }

    /// Changes aliases: a copy takes the place of what requests under way still read.
    pub fn change_aliases(&self, change: impl Fn(&mut Aliases)) {
        self.aliases.rcu(|now| {
            let mut next = Aliases::clone(now);
            change(&mut next);
            next
        });
    }

    /// The aliases as they are now.
    pub fn aliases(&self) -> Arc<Aliases> {
        self.aliases.load_full()
    }

    /// What `name` stands for when this user asks.
    pub fn alias(&self, user_id: &str, name: &str) -> Option<Arc<str>> {
        // Most requests name a provider, and no alias holds a separator.
        if name.contains([':', '/']) {
            return None;
        }
        self.aliases.load().target(user_id, name).cloned()
    }

    /// Takes over many prices at once.
    pub fn put_prices(&self, rows: &[PriceRow]) {
        let mut sorted: Vec<&PriceRow> = rows.iter().collect();
        sorted.sort_by(|a, b| (&a.model_key, a.effective_at).cmp(&(&b.model_key, b.effective_at)));
        let prices = self.prices.pin();
        for same in sorted.chunk_by(|a, b| a.model_key == b.model_key) {
            let points: Vec<PricePoint> = same.iter().map(|row| point(row)).collect();
            prices.insert(same[0].model_key.as_str().into(), points.into());
        }
    }

    /// Takes over one price, new or changed.
    pub fn put_price(&self, row: &PriceRow) {
        let point = point(row);
        self.prices.pin().update_or_insert_with(
            row.model_key.as_str().into(),
            |points| {
                let mut points: Vec<PricePoint> =
                    points.iter().filter(|p| p.from_us != point.from_us).cloned().collect();
                let at = points.partition_point(|p| p.from_us < point.from_us);
                points.insert(at, point.clone());
                points.into()
            },
            || Arc::from([point.clone()]),
        );
    }

    /// Forgets the price of this key from exactly this instant on, or all prices of the key.
    pub fn remove_price(&self, model_key: &str, effective_at: Option<Timestamp>) {
        let at_us = effective_at.map(|at| at.as_microsecond());
        self.prices.pin().compute(model_key.into(), |entry| {
            let Some((_, points)) = entry else { return Operation::Abort(()) };
            let left: Vec<PricePoint> = points
                .iter()
                .filter(|p| at_us.is_some_and(|at| p.from_us != at))
                .cloned()
                .collect();
            if left.is_empty() { Operation::Remove } else { Operation::Insert(left.into()) }
        });
    }

    /// The price of `model` at the instance `provider` now: the stored one, else the list price if that is switched on.
    pub fn price(
        &self,
        provider: &str,
        kind: &Provider,
        model: &str,
        now_us: i64,
    ) -> Option<Listed> {
        let mut key = String::with_capacity(provider.len() + 1 + model.len());
        if let Some(prices) = self.stored_price(provider, model, now_us, &mut key) {
            return Some(Listed { prices, is_exact: true });
        }
        self.default_prices.price(&key, kind, model)
    }

    /// The stored price of `provider:model` now; the older spelling `provider/model` is looked up second. `key` is room
    /// for the text that is looked up.
    fn stored_price(
        &self,
        provider: &str,
        model: &str,
        now_us: i64,
        key: &mut String,
    ) -> Option<Arc<Prices>> {
        let prices = self.prices.pin();
        for separator in [':', '/'] {
            key.clear();
            key.push_str(provider);
            key.push(separator);
            key.push_str(model);
            if let Some(points) = prices.get(key.as_str()) {
                let in_force = |point: &&PricePoint| point.is_begun || point.from_us <= now_us;
                if let Some(point) = points.iter().rev().find(in_force) {
                    return Some(point.prices.clone());
                }
            }
        }
        None
    }

    /// The newest price of every model, future ones included: its key, and when it was made in seconds since 1970.
    pub fn priced(&self) -> Vec<(Box<str>, Arc<Prices>, i64)> {
        let prices = self.prices.pin();
        let newest = prices.iter().filter_map(|(key, points)| Some((key.clone(), points.last()?)));
        newest
            .map(|(key, point)| (key, point.prices.clone(), point.created_us / 1_000_000))
            .collect()
    }

    /// Whether any price, past or future, is known under this key.
    pub fn has_price(&self, model_key: &str) -> bool {
        self.prices.pin().contains_key(model_key)
    }

    /// How many models have a price.
    pub fn priced_models(&self) -> usize {
        self.prices.len()
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

fn point(row: &PriceRow) -> PricePoint {
    PricePoint {
        from_us: row.effective_at.as_microsecond(),
        is_begun: row.was_in_force(),
        created_us: row.created_at.as_microsecond(),
        prices: Arc::new(row.prices.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::timestamp;
    use otari_filters::money::Rate;

    fn price(key: &str, from_us: i64, input: i64) -> PriceRow {
        PriceRow {
            model_key: key.into(),
            effective_at: timestamp(from_us),
            prices: Prices::new(Rate(input), Rate(0)),
            created_at: timestamp(0),
            updated_at: timestamp(0),
        }
    }

    /// The input's rate that applies.
    fn of(directory: &Directory, provider: &str, model: &str, now_us: i64) -> Option<i64> {
        let openai = otari_filters::providers::find("openai").unwrap();
        directory.price(provider, openai, model, now_us).map(|listed| listed.prices.input.0)
    }

    fn key(id: &str, token: &str) -> KeyRow {
        KeyRow {
            id: id.into(),
            key_hash: hex(&digest(token)),
            key_prefix: None,
            key_name: None,
            user_id: Some(String::new()),
            created_at: timestamp(0),
            last_used_at: None,
            expires_at: None,
            is_active: true,
            allowed_models: None,
            exclude_from_budget: false,
            reject_user_mismatch: None,
            metadata: serde_json::Map::new(),
        }
    }

    #[test]
    fn digests_that_begin_alike_are_those_of_two_keys() {
        let directory = Directory::default();
        let digest_of = |last: u8| {
            let mut digest = [7; 32];
            digest[31] = last;
            digest
        };
        for last in 1..=2 {
            let key_hash = hex(&digest_of(last));
            directory.put_key(&KeyRow { key_hash, ..key(&format!("k{last}"), "") });
        }
        let found = |last| directory.key(&digest_of(last)).map(|key| key.id.to_string());
        assert_eq!([found(1), found(2)], [Some("k1".to_owned()), Some("k2".to_owned())]);
        assert_eq!(found(3), None);
    }

    #[test]
    fn the_newest_price_that_applies_is_taken() {
        let directory = Directory::default();
        directory.put_prices(&[price("p:m", 200, 2), price("p:m", 100, 1), price("q/m", 0, 9)]);
        let input = |provider, now| of(&directory, provider, "m", now);
        assert_eq!(input("p", 99), None, "a future price does not apply");
        assert_eq!(input("p", 100), Some(1));
        assert_eq!(input("p", 1000), Some(2));
        assert_eq!(input("q", 0), Some(9), "the older spelling is honoured");
        directory.put_price(&price("p:m", 150, 5));
        directory.put_price(&price("p:m", 200, 3));
        assert_eq!((input("p", 160), input("p", 1000)), (Some(5), Some(3)));
    }

    #[test]
    fn what_was_in_force_when_it_was_made_is_whatever_the_clock_says() {
        let directory = Directory::default();
        let made = |from_us, input| PriceRow {
            created_at: timestamp(from_us),
            ..price("p:m", from_us, input)
        };
        directory.put_prices(&[made(200, 1), made(300, 2), price("p:m", 400, 3)]);
        let input = |now| of(&directory, "p", "m", now);
        assert_eq!((input(100), input(250)), (Some(2), Some(2)), "the clock was set back");
        assert_eq!((input(399), input(400)), (Some(2), Some(3)), "what is planned waits");
    }

    #[test]
    fn a_removed_price_uncovers_the_one_before() {
        let directory = Directory::default();
        directory.put_prices(&[price("p:m", 200, 2), price("p:m", 100, 1), price("p/m", 0, 9)]);
        let input = |now| of(&directory, "p", "m", now);
        directory.remove_price("p:m", Some(timestamp(150)));
        assert_eq!(input(200), Some(2), "there is none of that instant");
        directory.remove_price("p:m", Some(timestamp(200)));
        assert_eq!(input(200), Some(1));
        directory.remove_price("p:m", Some(timestamp(100)));
        assert!(!directory.has_price("p:m"), "nothing is left of the key");
        assert_eq!(input(200), Some(9));
        directory.put_price(&price("p/m", 5, 8));
        directory.remove_price("p/m", None);
        directory.remove_price("p/m", None);
        assert_eq!(input(200), None);
    }

    #[test]
    fn a_list_price_counts_only_while_none_is_stored_and_it_is_switched_on() {
        let directory = Directory::default();
        let input = |now| of(&directory, "p", "gpt-4o-mini", now);
        assert_eq!(input(0), None);
        directory.default_prices.switch(true);
        assert_eq!(input(0), Some(15_000_000));
        directory.put_prices(&[price("p:gpt-4o-mini", 100, 0), price("q/gpt-4o-mini", 0, 7)]);
        assert_eq!(
            (input(99), input(100)),
            (Some(15_000_000), Some(0)),
            "also a price of zero is a price"
        );
        assert_eq!(of(&directory, "q", "gpt-4o-mini", 0), Some(7));
        directory.remove_price("p:gpt-4o-mini", None);
        assert_eq!(input(100), Some(15_000_000));
        directory.default_prices.switch(false);
        assert_eq!(input(100), None);
    }

    #[test]
    fn the_keys_of_a_user_are_switched_off_together() {
        let directory = Directory::default();
        let owned = |id: &str, user: &str| KeyRow { user_id: Some(user.into()), ..key(id, id) };
        for row in [owned("a", "u"), owned("b", "u"), owned("c", "v")] {
            directory.put_key(&row);
        }
        directory.deactivate_keys_of("u");
        let active = |token| directory.key(&digest(token)).map(|key| key.is_active);
        assert_eq!(["a", "b", "c"].map(active), [Some(false), Some(false), Some(true)]);
    }

    #[test]
    fn a_key_that_is_switched_off_keeps_its_rules() {
        let directory = Directory::default();
        directory.put_key(&KeyRow {
            user_id: Some("u".into()),
            allowed_models: Some(vec!["p:m".into()]),
            exclude_from_budget: true,
            reject_user_mismatch: Some(false),
            ..key("k", "t")
        });
        directory.deactivate_keys_of("u");
        let found = directory.key(&digest("t")).unwrap();
        assert!(!found.is_active && found.excluded && found.rejects_mismatch == Some(false));
        assert!(found.allowed.as_ref().is_some_and(|list| !list.permits("p", "n")));
    }

    #[test]
    fn a_users_list_holds_until_it_is_cleared() {
        let directory = Directory::default();
        let mut row = crate::first_run::user("u", None);
        directory.put_user(&row);
        assert_eq!(directory.allowed("u"), None);
        row.allowed_models = Some(Vec::new());
        directory.put_user(&row);
        assert!(directory.allowed("u").is_some_and(|list| !list.permits("p", "m")));
        row.allowed_models = None;
        directory.put_user(&row);
        assert_eq!(directory.allowed("u"), None);
    }

    #[test]
    fn keys_are_found_by_digest_until_they_are_removed() {
        let directory = Directory::default();
        directory.put_key(&key("k", "gw-secret"));
        let found = directory.key(&digest("gw-secret")).unwrap();
        assert_eq!(found.user_id, None, "an empty owner is none");
        directory.put_key(&key("k", "gw-rotated"));
        assert!(directory.key(&digest("gw-secret")).is_none(), "the old secret dies at once");
        directory.remove_key("k");
        assert!(directory.key(&digest("gw-rotated")).is_none());
    }

    #[test]
    fn a_use_is_written_every_five_minutes() {
        let directory = Directory::default();
        directory.put_key(&key("k", "t"));
        let found = directory.key(&digest("t")).unwrap();
        assert!(found.touch(TOUCH_EVERY_US));
        assert!(!found.touch(TOUCH_EVERY_US + 1));
        assert!(found.touch(2 * TOUCH_EVERY_US));
    }
}
