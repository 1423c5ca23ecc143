//! What happens in a run, drawn from its seed: who calls when and how, what goes wrong when and where. Pure.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;

/// Calls begin within this time.
const LOAD_MS: u64 = 1800;
/// What a provider says a prompt has; less than the gateway's own estimate, so that no answer costs more than its hold.
pub(crate) const PROMPT_TOKENS: u64 = 10;
/// What every call declares as its longest answer.
pub(crate) const MAX_TOKENS: u64 = 32;
/// Who is billed. The first is under no cap.
pub(crate) const USERS: [&str; 4] = ["free", "near", "nearer", "nearest"];

/// What the gateway stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Sqlite,
    Postgres,
    /// Two gateways on one PostgreSQL.
    Shared,
    /// Before a platform.
    Connected,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Slow,
    Cut,
    CutInAnswer,
    HalfOpen,
    Reordered,
    NoNames,
    DiskFull,
    DatabaseRestart,
    FailOver,
    ClockJump,
    Stopped,
    Killed,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Slow,
        Self::Cut,
        Self::CutInAnswer,
        Self::HalfOpen,
        Self::Reordered,
        Self::NoNames,
        Self::DiskFull,
        Self::DatabaseRestart,
        Self::FailOver,
        Self::ClockJump,
        Self::Stopped,
        Self::Killed,
    ];

    /// As the table names it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Slow => "slow link",
            Self::Cut => "link cut",
            Self::CutInAnswer => "cut within answers",
            Self::HalfOpen => "half-open link",
            Self::Reordered => "answers reordered",
            Self::NoNames => "DNS gone",
            Self::DiskFull => "disk full",
            Self::DatabaseRestart => "PostgreSQL restart",
            Self::FailOver => "fail-over to a standby",
            Self::ClockJump => "clock jump",
            Self::Stopped => "SIGSTOP, SIGCONT",
            Self::Killed => "kill -9",
        }
    }

    /// Needs a library in the gateway's process.
    pub(crate) fn needs_shim(self) -> bool {
        matches!(self, Self::NoNames | Self::DiskFull | Self::ClockJump)
    }
}

/// Between whom a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Callers,
    /// Of the first provider of every call.
    First,
    /// Of the one that is asked when that fails.
    Second,
    Database,
    Platform,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Since the load began.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) side: Side,
    /// Which gateway, where there are two.
    pub(crate) gateway: usize,
    /// Milliseconds of a slow link, bytes until a cut, seconds of a jump; 1: a restart that is told to sessions.
    pub(crate) amount: i64,
}

/// An API that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Messages,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its identity: the model that is asked for, a word of the prompt and of every piece of the answer.
    pub(crate) name: String,
    pub(crate) user: usize,
    pub(crate) api: Api,
    pub(crate) streams: bool,
    pub(crate) gateway: usize,
    pub(crate) at: Duration,
    /// The caller leaves when so many bytes of the body are there; with none of them, soon after asking.
    pub(crate) leaves_after: Option<usize>,
    /// Tokens, one a piece.
    pub(crate) pieces: u64,
    /// Between two pieces.
    pub(crate) pace: Duration,
}

/// What a provider does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Serves,
    Refuses(u16),
    /// Closes the connection before the piece with this number.
    Breaks(u64),
}

/// A whole run.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) calls: Vec<Call>,
    pub(crate) faults: Vec<Fault>,
    /// In micro-dollars, of all [`USERS`] but the first.
    pub(crate) caps: [i64; 3],
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {:?}, {} calls:", self.seed, self.mode, self.calls.len())?;
        for fault in &self.faults {
            let (at, lasts) = (fault.at.as_millis(), fault.lasts.as_millis());
            write!(f, " {:?} at {at} ms for {lasts} ms", fault.kind)?;
            write!(f, " ({:?}, gateway {}, {});", fault.side, fault.gateway, fault.amount)?;
        }
        Ok(())
    }
}

impl Scene {
    /// The seed says which kind of fault it is about, so that every row of seeds has all of them. `has_shim`: without it
    /// the faults that need it are left out.
    pub(crate) fn draw(seed: u64, has_shim: bool) -> Self {
        let kinds: Vec<Kind> =
            Kind::ALL.into_iter().filter(|kind| has_shim || !kind.needs_shim()).collect();
        let at = usize::try_from(seed % kinds.len() as u64).expect("an index");
        let kind = kinds[at];
        let mut dice = Dice::new(seed);
        let mode = match kind {
            Kind::DatabaseRestart | Kind::FailOver => dice.pick(&[Mode::Postgres, Mode::Shared]),
            _ => dice.pick(&[Mode::Sqlite, Mode::Postgres, Mode::Shared, Mode::Connected]),
        };
        let calls = (0..dice.between(30, 80)).map(|n| draw_call(&mut dice, n, mode)).collect();
        let mut faults = vec![draw_fault(&mut dice, kind, mode)];
        // Any of them may meet the others, but a database has one thing wrong at a time.
        let others: Vec<Kind> = kinds
            .into_iter()
            .filter(|other| !matches!(other, Kind::DatabaseRestart | Kind::FailOver))
            .collect();
        for _ in 0..dice.pick(&[0, 0, 1, 1, 2]) {
            let other = dice.pick(&others);
            if faults.iter().all(|fault: &Fault| fault.kind != other) {
                faults.push(draw_fault(&mut dice, other, mode));
            }
        }
        let caps = [600, 450, 250].map(|cap| cap + i64::try_from(dice.between(0, 99)).unwrap_or(0));
        Self { seed, kind, mode, calls, faults, caps }
    }

    pub(crate) fn gateways(&self) -> usize {
        if self.mode == Mode::Shared { 2 } else { 1 }
    }

    /// What the provider at this place does with a call.
    pub(crate) fn part(&self, call: &str, place: usize) -> Part {
        let mut dice = Dice::of(self.seed, &format!("{call} at {place}"));
        let (fails, breaks) = if place == 0 { (18, 8) } else { (5, 5) };
        let drawn = dice.between(1, 100);
        if drawn <= fails {
            return Part::Refuses(dice.pick(&[500, 503, 429, 401]));
        }
        if drawn <= fails + breaks { Part::Breaks(dice.between(0, 3)) } else { Part::Serves }
    }
}

fn draw_call(dice: &mut Dice, n: u64, mode: Mode) -> Call {
    let streams = dice.chance(40);
    let leaves = dice.chance(10);
    let bytes = dice.between(0, 900);
    Call {
        name: format!("c{n}"),
        user: usize::try_from(dice.between(0, 3)).expect("an index"),
        api: dice.pick(&[Api::Chat, Api::Chat, Api::Messages]),
        streams,
        gateway: usize::from(dice.chance(50) && mode == Mode::Shared),
        at: Duration::from_millis(dice.between(0, LOAD_MS)),
        leaves_after: leaves.then(|| usize::try_from(bytes).expect("a length")),
        pieces: dice.between(3, 20),
        pace: Duration::from_millis(dice.pick(&[0, 2, 10, 40])),
    }
}

fn draw_fault(dice: &mut Dice, kind: Kind, mode: Mode) -> Fault {
    let sides: &[Side] = match mode {
        Mode::Sqlite => &[Side::Callers, Side::First, Side::Second],
        Mode::Postgres | Mode::Shared => {
            &[Side::Callers, Side::First, Side::Second, Side::Database, Side::Database]
        }
        Mode::Connected => {
            &[Side::Callers, Side::First, Side::Second, Side::Platform, Side::Platform]
        }
    };
    let side = dice.pick(sides);
    let lasts = match kind {
        Kind::Stopped => dice.between(1000, 3000),
        Kind::Killed => dice.between(0, 300),
        _ => dice.between(100, 1500),
    };
    // A name that was found is known for a while.
    let at = if kind == Kind::NoNames { 0 } else { dice.between(100, LOAD_MS - 200) };
    let amount = match kind {
        Kind::Slow => dice.between(5, 400).cast_signed(),
        Kind::CutInAnswer => dice.between(1, 2500).cast_signed(),
        Kind::ClockJump => dice.pick(&[-7200, -90, -3, 3, 90, 3700]),
        Kind::DatabaseRestart => dice.pick(&[0, 1]),
        _ => 0,
    };
    Fault {
        kind,
        at: Duration::from_millis(at),
        lasts: Duration::from_millis(lasts),
        side,
        gateway: usize::from(dice.chance(50) && mode == Mode::Shared),
        amount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all_and_a_row_of_seeds_has_every_fault() {
        let shown = |seed| Scene::draw(seed, true).to_string();
        assert_eq!(shown(7), shown(7));
        for start in [0, 1 << 40, u64::MAX - 50] {
            let kinds: Vec<Kind> =
                (0..12).map(|n| Scene::draw(start + n, true).faults[0].kind).collect();
            assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
        }
        let without = (0..50).flat_map(|seed| Scene::draw(seed, false).faults);
        assert!(without.into_iter().all(|fault| !fault.kind.needs_shim()));
    }
}
