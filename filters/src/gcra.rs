//! Rates by the generic cell rate algorithm: a limit per minute as a bucket that leaks steadily.
//!
//! What something costs is the time in which the limit brings it back, in nanoseconds, so that a bucket is one number and
//! a wait is a subtraction. Where gateways share a limit, one row holds the bucket of all of them: each takes from it
//! ahead of its demand (its *credit*) and knows what was left unclaimed (the *room*). Only credit is spent, so that the
//! gateways together never let more pass than one would, whatever they have heard of each other; whoever has none waits
//! for the next exchange. The exception is the first call after a silence, of which each gateway may have one.
//!
//! Without the row each gateway goes on with its part of what it last heard of, and tells afterwards what it let pass.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

/// A minute in nanoseconds.
const MINUTE_NS: i128 = 60_000_000_000;
/// The longest debt: what goes beyond it is forgiven.
const LONGEST_NS: i64 = 86_400_000_000_000;
/// What a gateway was told is good for so long: longer than it is between two exchanges.
const FRESH_NS: i64 = 250_000_000;
/// What was taken ahead is not given back for so long: whoever waited for it is on the way.
const GRACE_NS: i64 = 50_000_000;
/// After so long without a word of a limit its first call does not wait.
const SILENCE_NS: i64 = 3_000_000_000;
/// If the first calls of all gateways came to no more than this part of the burst.
const FIRST_CALLS: i64 = 4;
/// What is taken ahead of demand on all gateways comes to no more than this part of the burst, or a call each.
const SPARE: i64 = 8;

/// How much per minute, and how much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_minute: NonZeroU32,
    burst_ns: i64,
    /// This is one of so many equal parts of the limit.
    parts: u32,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// At once, now.
    pub amount: u32,
    /// Until all of the burst is there again.
    pub full_in: Duration,
}

impl Rate {
    /// `burst`: what may come at once is what the limit brings in this time, and one at least.
    pub fn new(per_minute: NonZeroU32, burst: Duration) -> Self {
        let burst_ns = i64::try_from(burst.as_nanos()).unwrap_or(LONGEST_NS).min(LONGEST_NS);
        let rate = Self { per_minute, burst_ns, parts: 1 };
        Self { burst_ns: burst_ns.max(rate.cost(1)), ..rate }
    }

    /// One of so many equal parts of it.
    #[must_use]
    pub fn part(self, parts: u32) -> Self {
        let part = Self { parts: parts.max(1), ..self };
        Self { burst_ns: part.burst_ns.max(part.cost(1)), ..part }
    }

    /// Of the whole limit.
    pub fn per_minute(self) -> NonZeroU32 {
        self.per_minute
    }

    /// What may come at once, as time.
    pub fn burst_ns(self) -> i64 {
        self.burst_ns
    }

    /// The time in which the limit brings back so much.
    pub fn cost(self, amount: u64) -> i64 {
        let scale = i128::from(self.parts) * MINUTE_NS;
        let cost = i128::from(amount).saturating_mul(scale) / i128::from(self.per_minute.get());
        i64::try_from(cost).unwrap_or(LONGEST_NS).min(LONGEST_NS)
    }

    /// What has to be there for a call of that cost. One that is larger than the whole burst passes when all of it is
    /// there, and is paid off afterwards: it would never pass otherwise.
    fn needs(self, cost: i64) -> i64 {
        cost.min(self.burst_ns)
    }

    fn left(self, room_ns: i64) -> Left {
        let room_ns = room_ns.clamp(0, self.burst_ns);
        let amount = i128::from(room_ns) * i128::from(self.per_minute.get())
            / (i128::from(self.parts) * MINUTE_NS);
        let missing = u64::try_from(self.burst_ns - room_ns).unwrap_or(0);
        Left {
            amount: u32::try_from(amount).unwrap_or(u32::MAX),
            full_in: Duration::from_nanos(missing),
        }
    }
}

/// Why a call does not pass at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// There is not enough: the wait until there is.
    For(Duration),
    /// There may be, and only the common bucket knows: to be tried again after the next exchange.
    Unknown,
}

/// What a call has taken, to be corrected when it is known what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This gateway's own bucket.
    Own(Rate),
    /// One of so many parts of what gateways share.
    Part(Rate),
    /// What gateways share.
    Shared(Rate),
}

/// One limit of one subject. Every number is in nanoseconds; no lock.
#[derive(Debug)]
pub struct Bucket {
    /// Alone: when all of the bucket will be there again, the algorithm's theoretical arrival time.
    tat: AtomicI64,
    /// Alone, among gateways that share: spent and not told yet.
    alone: AtomicI64,
    /// Shared: taken ahead from the common bucket; below zero: spent and not told yet.
    credit: AtomicI64,
    /// Shared: what was unclaimed in the common bucket at `known_at`, less what was told of it since.
    room: AtomicI64,
    known_at: AtomicI64,
    /// Shared: what calls wanted since the last exchange, refused ones too.
    wanted: AtomicI64,
    /// The least that any of them needed.
    least: AtomicI64,
    /// What the last of them needed.
    last: AtomicI64,
    /// What was wanted between two exchanges, the most of late.
    pace: AtomicI64,
    /// Somebody has seen to it that there will be an exchange soon.
    is_claimed: AtomicBool,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            tat: AtomicI64::new(0),
            alone: AtomicI64::new(0),
            credit: AtomicI64::new(0),
            room: AtomicI64::new(0),
            // Long ago: nothing is known.
            known_at: AtomicI64::new(-LONGEST_NS),
            wanted: AtomicI64::new(0),
            least: AtomicI64::new(i64::MAX),
            last: AtomicI64::new(0),
            pace: AtomicI64::new(0),
            is_claimed: AtomicBool::new(false),
        }
    }
}

/// What a gateway asks of the common bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The size of the bucket.
    pub burst_ns: i64,
    /// Spent beyond what was taken, and to be counted in any case; below zero: given back.
    pub spent_ns: i64,
    /// Spent while nothing was heard of the common bucket, and to be counted too.
    pub alone_ns: i64,
    /// Taken before, and kept.
    pub held_ns: i64,
    /// To be taken ahead, as far as it is there.
    pub ahead_ns: i64,
    /// And beyond that, if half of the bucket is left then.
    pub spare_ns: i64,
    /// The least that is of use.
    pub least_ns: i64,
    /// Into how many parts the room is divided, one of which may be taken ahead.
    pub parts: u32,
}

/// What it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Taken ahead.
    pub ahead_ns: i64,
    /// What is left for whoever comes first; below zero: more was spent than there was.
    pub room_ns: i64,
}

/// One exchange with the common bucket, whose theoretical arrival time is `tat`; returns the new one.
pub fn serve(tat: i64, now: i64, ask: &Ask) -> (i64, Granted) {
    let spent = tat.max(now).saturating_add(ask.spent_ns).saturating_add(ask.alone_ns);
    // What is held is a part of the bucket: it is never full beside that.
    let held = ask.held_ns.clamp(0, LONGEST_NS);
    let base = spent.clamp(now.saturating_add(held), now.saturating_add(LONGEST_NS));
    let room_ns = ask.burst_ns - (base - now);
    // Whole calls: parts of one in the hands of several gateways would be of use to none.
    let least = ask.least_ns.clamp(1, ask.ahead_ns.max(1));
    let part = part_of(room_ns, least, ask.parts);
    let mut ahead_ns = if part >= ask.ahead_ns { ask.ahead_ns } else { part / least * least };
    if part >= ask.ahead_ns && room_ns - ahead_ns - ask.spare_ns >= ask.burst_ns / 2 {
        ahead_ns += ask.spare_ns;
    }
    (base + ahead_ns, Granted { ahead_ns, room_ns: room_ns - ahead_ns })
}

/// What one gateway may take of the room ahead of its calls: the others want some too. Enough for a call, if it is there
/// for one.
fn part_of(room_ns: i64, least_ns: i64, parts: u32) -> i64 {
    let part = room_ns.max(0) / i64::from(parts.max(1));
    if room_ns >= least_ns { part.max(least_ns) } else { part }
}

impl Bucket {
    /// Takes so much out of this gateway's own bucket.
    ///
    /// # Errors
    /// The wait until there is enough.
    pub fn take(&self, rate: Rate, amount: u64, now: i64) -> Result<Left, Duration> {
        self.take_after(i64::MIN, rate, amount, now)
    }

    /// Takes so much out of this gateway's part of a limit that it shares with others, of whom it hears nothing. `rate`:
    /// the whole limit; `parts`: how many gateways there are.
    ///
    /// # Errors
    /// The wait until there is enough.
    pub fn take_part(
        &self,
        rate: Rate,
        parts: u32,
        amount: u64,
        now: i64,
    ) -> Result<(Source, Left), Duration> {
        // What was missing from the common bucket is missing from every part of it.
        let missing = rate.burst_ns - self.room.load(Ordering::Acquire).min(rate.burst_ns);
        let full_at = self.known_at.load(Ordering::Acquire).saturating_add(missing);
        let part = rate.part(parts);
        let left = self.take_after(full_at, part, amount, now)?;
        self.alone.fetch_add(rate.cost(amount), Ordering::AcqRel);
        Ok((Source::Part(part), left))
    }

    /// Takes so much out of a bucket of which all is there at `full_at`, and not before.
    fn take_after(
        &self,
        full_at: i64,
        rate: Rate,
        amount: u64,
        now: i64,
    ) -> Result<Left, Duration> {
        let cost = rate.cost(amount);
        let mut tat = self.tat.load(Ordering::Relaxed);
        loop {
            let base = tat.max(full_at).max(now);
            let missing = (base - now).saturating_add(rate.needs(cost)) - rate.burst_ns;
            if missing > 0 {
                return Err(wait(missing));
            }
            let next = (base + cost).min(now.saturating_add(LONGEST_NS));
            match self.tat.compare_exchange_weak(tat, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(rate.left(rate.burst_ns - (next - now))),
                Err(other) => tat = other,
            }
        }
    }

    /// Takes so much out of the credit; asks for as much the next time. `parts`: how many gateways there are; 0: nobody
    /// knows.
    ///
    /// # Errors
    /// The wait until there is enough, or that nobody here knows whether there is.
    pub fn take_shared(
        &self,
        rate: Rate,
        amount: u64,
        now: i64,
        parts: u32,
    ) -> Result<Left, Short> {
        let cost = rate.cost(amount);
        let needs = rate.needs(cost);
        // A large call asks for what lets it pass; the rest of it is counted afterwards.
        self.wanted.fetch_add(needs, Ordering::Relaxed);
        self.least.fetch_min(needs, Ordering::Relaxed);
        self.last.store(needs, Ordering::Relaxed);
        let (room, age) = self.known_room(rate, now);
        let first_calls = i64::from(parts).saturating_mul(needs).saturating_mul(FIRST_CALLS);
        let waits_not = age > SILENCE_NS && parts > 0 && first_calls <= rate.burst_ns;
        let mut credit = self.credit.load(Ordering::Relaxed);
        loop {
            // One only: with it the credit is below zero until it is told.
            if needs > credit && !(waits_not && credit >= 0) {
                let missing = needs - credit.saturating_add(room);
                let is_known = age <= FRESH_NS && missing > 0;
                return Err(if is_known { Short::For(wait(missing)) } else { Short::Unknown });
            }
            let next = (credit - cost).max(-LONGEST_NS);
            match self.credit.compare_exchange_weak(
                credit,
                next,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(rate.left(next.saturating_add(room))),
                Err(other) => credit = other,
            }
        }
    }

    /// What is unclaimed, as far as it is known, and how long ago that was. What is known no more is taken for as much as
    /// the limit has brought back since.
    fn known_room(&self, rate: Rate, now: i64) -> (i64, i64) {
        let age = now.saturating_sub(self.known_at.load(Ordering::Acquire));
        let back = if age > FRESH_NS { age } else { 0 };
        let room = self.room.load(Ordering::Acquire).saturating_add(back).min(rate.burst_ns);
        (room, age)
    }

    /// Whether nobody else has seen to it that there will be an exchange soon.
    pub fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::AcqRel)
    }

    /// Corrects what was taken: `taken` was, `used` is right.
    pub fn correct(&self, source: Source, taken: u64, used: u64) {
        let more = |rate: Rate| rate.cost(used) - rate.cost(taken);
        match source {
            Source::Own(rate) => self.tat.fetch_add(more(rate), Ordering::AcqRel),
            Source::Part(rate) => {
                self.tat.fetch_add(more(rate), Ordering::AcqRel);
                self.alone.fetch_add(more(Rate { parts: 1, ..rate }), Ordering::AcqRel)
            }
            Source::Shared(rate) => self.credit.fetch_sub(more(rate), Ordering::AcqRel),
        };
    }

    /// What is to be told and asked. Whoever calls it says [`Self::told`] or [`Self::not_told`] next. `parts`: how many
    /// gateways there are. `is_active`: it was used lately. `waits`: calls wait for the answer, and what they want need
    /// not be divided.
    pub fn ask(&self, rate: Rate, parts: u32, is_active: bool, waits: bool, now: i64) -> Ask {
        self.is_claimed.store(false, Ordering::Release);
        let wanted = self.wanted.swap(0, Ordering::AcqRel);
        let least = self.least.swap(i64::MAX, Ordering::AcqRel);
        let spare = if is_active { self.spare(rate, wanted, parts) } else { 0 };
        let (room, age) = self.known_room(rate, now);
        let keeps = if age < GRACE_NS {
            i64::MAX
        } else if room >= rate.burst_ns / 2 {
            wanted.max(spare)
        } else {
            wanted
        };
        let mut credit = self.credit.load(Ordering::Relaxed);
        // What is there beyond the demand goes back, at once, so that nobody spends it meanwhile.
        let spent_ns = loop {
            let spent = if credit < 0 { -credit } else { keeps.min(credit) - credit };
            match self.credit.compare_exchange_weak(
                credit,
                credit + spent,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break spent,
                Err(other) => credit = other,
            }
        };
        self.room.fetch_sub(spent_ns.max(0), Ordering::AcqRel);
        // What the part has brought back since is no debt: the common bucket has it too.
        let owed = self.tat.load(Ordering::Acquire).saturating_sub(now).max(0);
        let alone_ns = self.alone.swap(0, Ordering::AcqRel).min(owed / i64::from(parts.max(1)));
        let held_ns = (credit + spent_ns).max(0);
        Ask {
            burst_ns: rate.burst_ns,
            spent_ns,
            alone_ns,
            held_ns,
            ahead_ns: (wanted - held_ns).clamp(0, rate.burst_ns),
            spare_ns: (spare - held_ns.max(wanted)).max(0),
            least_ns: least.saturating_sub(held_ns).clamp(1, rate.burst_ns),
            parts: if waits { 1 } else { parts },
        }
    }

    /// What is held so that the next calls need not wait: twice what came between two exchanges, or the next one.
    fn spare(&self, rate: Rate, wanted: i64, parts: u32) -> i64 {
        let pace = wanted.max(self.pace.load(Ordering::Relaxed) / 8 * 7);
        self.pace.store(pace, Ordering::Relaxed);
        let most = rate.burst_ns / SPARE / i64::from(parts.max(1));
        pace.saturating_mul(2).min(most).max(self.last.load(Ordering::Relaxed))
    }

    /// The common bucket has answered.
    pub fn told(&self, granted: Granted, now: i64) {
        self.credit.fetch_add(granted.ahead_ns, Ordering::AcqRel);
        self.room.store(granted.room_ns, Ordering::Release);
        self.known_at.store(now, Ordering::Release);
    }

    /// It has not, or nobody knows: what was spent will be told again. What was given back stays given.
    pub fn not_told(&self, ask: &Ask) {
        let spent = ask.spent_ns.max(0);
        self.credit.fetch_sub(spent, Ordering::AcqRel);
        self.room.fetch_add(spent, Ordering::AcqRel);
        self.alone.fetch_add(ask.alone_ns, Ordering::AcqRel);
    }

    /// Whether it might as well be forgotten.
    pub fn is_idle(&self, now: i64) -> bool {
        self.tat.load(Ordering::Relaxed) <= now && self.credit.load(Ordering::Relaxed) == 0
    }

    /// Whether there is anything to tell or to ask.
    pub fn has_news(&self) -> bool {
        let is_news = |number: &AtomicI64| number.load(Ordering::Relaxed) != 0;
        is_news(&self.wanted) || is_news(&self.credit) || is_news(&self.alone)
    }
}

fn wait(missing_ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(missing_ns).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    const S: i64 = 1_000_000_000;

    fn rate(per_minute: u32, burst_s: u64) -> Rate {
        Rate::new(NonZeroU32::new(per_minute).unwrap(), Duration::from_secs(burst_s))
    }

    #[test]
    fn a_bucket_lets_a_burst_pass_and_then_the_rate() {
        let (rate, bucket) = (rate(60, 6), Bucket::default());
        let passed = (0..100).filter(|_| bucket.take(rate, 1, 0).is_ok()).count();
        assert_eq!(passed, 6);
        assert_eq!(bucket.take(rate, 1, 0), Err(Duration::from_secs(1)), "refused calls take none");
        let left = bucket.take(rate, 1, S).unwrap();
        assert_eq!(left, Left { amount: 0, full_in: Duration::from_secs(6) });
        // Twice the rate for five minutes.
        let passed = (0..600).filter(|n| bucket.take(rate, 1, S + n * S / 2).is_ok()).count();
        assert_eq!(passed, 299);
        assert!(!bucket.is_idle(301 * S) && bucket.is_idle(400 * S));
    }

    #[test]
    fn a_call_that_is_larger_than_the_burst_is_paid_off_and_a_correction_comes_back() {
        let (rate, bucket) = (rate(6_000, 6), Bucket::default());
        assert!(bucket.take(rate, 1, 0).is_ok());
        assert_eq!(bucket.take(rate, 3_000, 0), Err(Duration::from_millis(10)), "all of it first");
        bucket.take(rate, 3_000, 10_000_000).unwrap();
        assert_eq!(bucket.take(rate, 100, 10_000_000), Err(Duration::from_secs(25)));
        bucket.correct(Source::Own(rate), 3_000, 100);
        assert_eq!(bucket.take(rate, 500, 10_000_000).unwrap().amount, 0);
        bucket.correct(Source::Own(rate), 500, 1_100);
        assert_eq!(bucket.take(rate, 1, 10_000_000), Err(Duration::from_millis(6_010)));
    }

    #[test]
    fn numbers_do_not_overflow() {
        let (least, most) = (rate(1, 1), rate(u32::MAX, 3600));
        assert_eq!(least.burst_ns(), 60 * S, "one call at least");
        assert_eq!((least.cost(u64::MAX), most.cost(1)), (LONGEST_NS, 13));
        let bucket = Bucket::default();
        bucket.take(least, u64::MAX, 5).unwrap();
        assert_eq!(bucket.take(least, 1, 5), Err(Duration::from_secs(86_400)));
        assert_eq!(rate(60, 6).part(3).cost(1), 3 * S);
        assert_eq!(rate(60, 1).part(3).burst_ns(), 3 * S);
    }

    /// Gateways that exchange every 100 ms, one after the other, and at once when a call waits for it; against calls that
    /// come evenly. Who gets how many, and how many of all had to wait.
    struct Together {
        rate: Rate,
        gateways: [Bucket; 3],
        tat: i64,
        /// The seconds in which nobody hears of the others.
        silence: Range<i64>,
        called: i64,
        passed: [i64; 3],
        waited: i64,
    }

    impl Together {
        fn new(rate: Rate) -> Self {
            let gateways = [Bucket::default(), Bucket::default(), Bucket::default()];
            Self { rate, gateways, tat: 0, silence: 0..0, called: 0, passed: [0; 3], waited: 0 }
        }

        fn exchange(&mut self, at: usize, waits: bool, now: i64) {
            let ask = self.gateways[at].ask(self.rate, 3, true, waits, now);
            if self.silence.contains(&(now / S)) {
                self.gateways[at].not_told(&ask);
                return;
            }
            let (next, granted) = serve(self.tat, now, &ask);
            self.tat = next;
            self.gateways[at].told(granted, now);
        }

        fn call(&mut self, at: usize, now: i64) {
            if self.silence.contains(&(now / S)) {
                let passed = self.gateways[at].take_part(self.rate, 3, 1, now);
                self.passed[at] += i64::from(passed.is_ok());
                return;
            }
            for tries in 0..8 {
                match self.gateways[at].take_shared(self.rate, 1, now, 3) {
                    Ok(_) => {
                        self.passed[at] += 1;
                        return;
                    }
                    Err(Short::For(_)) => return,
                    Err(Short::Unknown) => {
                        self.waited += i64::from(tries == 0);
                        self.exchange(at, true, now);
                    }
                }
            }
        }

        fn run(mut self, seconds: i64, per_second: impl Fn(i64, usize) -> i64) -> Self {
            let step = S / 1000;
            // Nobody comes first each time.
            let (mut due, mut next) = ([0_i64, 16_550, 33_650], [0, 33, 66]);
            for ms in 0..seconds * 1000 {
                let now = ms * step;
                for at in 0..3 {
                    // Out of step with each other, as processes are; of what was used.
                    let is_used = self.gateways[at].last.load(Ordering::Relaxed) > 0;
                    if is_used && ms >= next[at] {
                        next[at] = ms + 75 + (ms * 7 + at as i64 * 13) % 50;
                        self.exchange(at, false, now);
                    }
                    due[at] += per_second(ms / 1000, at) * ((ms * 31 + at as i64 * 17) % 101);
                    while due[at] >= 50_000 {
                        due[at] -= 50_000;
                        self.called += 1;
                        self.call(at, now);
                    }
                }
            }
            self
        }
    }

    fn shared(rate: Rate, seconds: i64, per_second: impl Fn(i64, usize) -> i64) -> Vec<i64> {
        Together::new(rate).run(seconds, per_second).passed.to_vec()
    }

    fn is_near(passed: &[i64], expected: i64) {
        let sum: i64 = passed.iter().sum();
        assert!((sum - expected).abs() * 50 <= expected, "{passed:?}: {sum}, not {expected}");
    }

    #[test]
    fn three_gateways_pass_together_what_one_would() {
        for (per_minute, burst_s) in [(600, 6), (6_000, 6), (60_000, 1), (300, 1)] {
            let rate = rate(per_minute, burst_s);
            let each = i64::from(per_minute) / 60;
            let expected = each * (30 + i64::try_from(burst_s).unwrap());
            let even = shared(rate, 30, |_, _| each * 2 / 3 + 1);
            is_near(&even, expected);
            assert!(even.iter().all(|one| one * 6 > expected), "each has a part: {even:?}");
            is_near(&shared(rate, 30, |_, at| if at == 0 { each * 2 } else { 0 }), expected);
            let moving = shared(rate, 30, |s, at| if s / 10 == at as i64 { each * 2 } else { 0 });
            is_near(&moving, expected);
        }
    }

    #[test]
    fn what_gateways_pass_without_hearing_of_each_other_is_a_part_of_what_one_would() {
        let rate = rate(600, 6);
        for silence in [0..1, 0..20, 3..4, 10..12, 5..25] {
            // Everywhere too much, and at one gateway more than there is for all.
            let loads: [fn(i64, usize) -> i64; 2] =
                [|_, _| 12, |_, at| if at == 0 { 30 } else { 0 }];
            for (which, load) in loads.into_iter().enumerate() {
                let run = Together { silence: silence.clone(), ..Together::new(rate) };
                let passed: i64 = run.run(30, load).passed.iter().sum();
                let unused = if which == 0 { 0 } else { (silence.end - silence.start) * 20 / 3 };
                let expected = 10 * (30 + 6);
                assert!(passed * 50 <= expected * 51 + 150, "{silence:?}: {passed}");
                // What the others' parts bring back is there again, as far as a burst goes.
                assert!(passed >= expected * 49 / 50 - unused - 20, "{silence:?}: {passed}");
            }
        }
    }

    #[test]
    fn a_flood_at_gateways_that_have_heard_nothing_gets_what_one_would_give() {
        for per_minute in [300, 600, 6_000] {
            let rate = rate(per_minute, 6);
            let each = i64::from(per_minute) / 60;
            let flood = |seconds| shared(rate, seconds, |_, _| each * 50).iter().sum::<i64>();
            for seconds in [1, 3, 10, 30] {
                let expected = each * (seconds + 6);
                let passed = flood(seconds);
                // One more at each gateway, which was the first.
                let most = expected * 51 / 50 + 2;
                assert!(
                    passed <= most && passed >= expected * 49 / 50 - 3,
                    "{seconds} s: {passed}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn a_low_limit_is_whole_wherever_it_is_used() {
        // A call at once, and five a minute.
        for at in 0..3 {
            let passed = shared(rate(5, 6), 63, |_, gateway| i64::from(gateway == at) * 4);
            assert_eq!(passed[at], 6, "{passed:?}");
        }
        let together = Together::new(rate(5, 6)).run(1, |_, _| 1000);
        assert_eq!(together.passed.iter().sum::<i64>(), 1, "{:?}", together.passed);
    }

    #[test]
    fn below_the_limit_nobody_is_refused_wherever_they_call() {
        let rate = rate(600, 6);
        // Nine a second, at another gateway each second.
        let moving = Together::new(rate).run(30, |s, at| if s % 3 == at as i64 { 9 } else { 0 });
        assert!(moving.called > 250);
        assert_eq!(moving.passed.iter().sum::<i64>(), moving.called);
    }

    #[test]
    fn far_below_the_limit_hardly_any_call_waits() {
        for per_second in [1, 5, 50, 250] {
            let even = Together::new(rate(60_000, 6)).run(30, |_, _| per_second);
            let passed: i64 = even.passed.iter().sum();
            assert_eq!(passed, even.called);
            assert!(even.waited * 100 <= passed, "{} of {passed} waited", even.waited);
        }
    }

    #[test]
    fn what_is_held_ahead_does_not_make_the_burst_larger() {
        let rate = rate(6_000, 6);
        // A load that fits, then a flood: what was held is a part of what the flood gets.
        let passed = |s: i64| move |now: i64, _| if now < s { 30 } else { 5_000 };
        let quiet: i64 = shared(rate, 10, |_, _| 30).iter().sum();
        let all: i64 = shared(rate, 11, passed(10)).iter().sum();
        let flood = all - quiet;
        assert!((680..=720).contains(&flood), "{flood}, not 700");
    }

    #[test]
    fn what_is_not_told_is_told_again_and_what_is_too_much_goes_back() {
        let (rate, bucket) = (rate(60, 6), Bucket::default());
        assert_eq!(bucket.take_shared(rate, 2, 0, 1), Err(Short::Unknown), "nobody has asked");
        bucket.told(Granted { ahead_ns: 2 * S, room_ns: 4 * S }, 0);
        bucket.take_shared(rate, 2, 0, 1).unwrap();
        // It used three.
        bucket.correct(Source::Shared(rate), 2, 3);
        let ask = bucket.ask(rate, 1, true, false, S / 10);
        assert_eq!((ask.spent_ns, ask.held_ns, ask.ahead_ns), (S, 0, 4 * S));
        assert_eq!(
            bucket.take_shared(rate, 4, S / 10, 1),
            Err(Short::For(Duration::from_secs(1))),
            "on its way, and not here twice"
        );
        bucket.not_told(&ask);
        assert_eq!(bucket.ask(rate, 1, true, false, S / 10).spent_ns, S);
        bucket.told(Granted { ahead_ns: 3 * S, room_ns: S }, S / 5);
        assert_eq!(bucket.ask(rate, 1, true, false, S / 5).spent_ns, 0, "who waited is on the way");
        let ask = bucket.ask(rate, 1, true, false, 3 * S / 10);
        assert_eq!((ask.spent_ns, ask.ahead_ns), (-3 * S, 0), "nobody wanted anything");
        assert!(!bucket.has_news());
        let spent = Ask { burst_ns: 6 * S, spent_ns: 9 * S, parts: 1, ..Ask::default() };
        let (tat, granted) = serve(10 * S, 5 * S, &spent);
        assert_eq!((tat, granted.room_ns), (19 * S, -8 * S), "paid off later");
        let held = Ask { burst_ns: 6 * S, held_ns: 2 * S, parts: 1, ..Ask::default() };
        assert_eq!(serve(0, 5 * S, &held).1.room_ns, 4 * S, "a part of it is held");
    }

    #[test]
    fn the_first_call_after_a_silence_does_not_wait_and_is_told() {
        let (rate, bucket) = (rate(300, 6), Bucket::default());
        assert_eq!(bucket.take_shared(rate, 1, 0, 0), Err(Short::Unknown), "how many are there?");
        assert_eq!(bucket.take_shared(rate, 5, 0, 3), Err(Short::Unknown), "too much to be left");
        bucket.take_shared(rate, 1, 0, 3).unwrap();
        assert_eq!(bucket.take_shared(rate, 1, 0, 3), Err(Short::Unknown));
        let ask = bucket.ask(rate, 3, true, true, 0);
        assert_eq!(ask.spent_ns, rate.cost(1));
        assert!(bucket.claim() && !bucket.claim());
    }
}
