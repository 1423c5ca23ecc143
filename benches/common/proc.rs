//! What a process uses, from `/proc`: CPU of all its threads, and memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::Outcome;

/// Clock ticks per second in `/proc/<pid>/stat`: `USER_HZ`, 100 on x86-64 and arm64.
const TICKS: u64 = 100;

/// By so much may the count in ticks be off: user and system time are rounded on their own, at both ends.
const TICKS_ERROR: Duration = Duration::from_millis(4 * 1000 / TICKS);

/// CPU time used up to one moment, user and system, all threads.
pub(crate) struct Cpu {
    /// Nanoseconds of each living thread: what the scheduler gave it.
    threads: BTreeMap<u32, u64>,
    /// The same in ticks, with those that have ended.
    whole: Duration,
}

impl Cpu {
    /// What the process has used so far.
    pub(crate) fn of(id: &str) -> Outcome<Self> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            let thread = thread?;
            let nanos = match fs::read_to_string(thread.path().join("schedstat")) {
                Ok(text) => text.split_ascii_whitespace().next().unwrap_or_default().parse()?,
                // It has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            threads.insert(thread.file_name().to_string_lossy().parse()?, nanos);
        }
        Ok(Self { threads, whole: total(id)? })
    }

    /// What it has used since `before`: to the nanosecond, unless threads have ended since and took their count with them.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let of = |id: &u32| before.threads.get(id).copied().unwrap_or(0);
        let fine: u64 = self.threads.iter().map(|(id, now)| now.saturating_sub(of(id))).sum();
        let (fine, coarse) = (Duration::from_nanos(fine), self.whole.saturating_sub(before.whole));
        let is_whole = before.threads.keys().all(|id| self.threads.contains_key(id));
        if is_whole && coarse <= fine + TICKS_ERROR { fine } else { coarse }
    }
}

/// What a process has used since its start, to 10 ms.
pub(crate) fn total(id: &str) -> Outcome<Duration> {
    ticks(&fs::read_to_string(format!("/proc/{id}/stat"))?, 2)
}

/// CPU time of a process, its living children, and those it has seen end.
pub(crate) fn family_cpu(id: &str) -> Outcome<Duration> {
    let mut all = ticks(&fs::read_to_string(format!("/proc/{id}/stat"))?, 4)?;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("stat");
        // Most entries are no processes, and some have just ended.
        let Ok(stat) = fs::read_to_string(path) else { continue };
        if fields(&stat).nth(1).is_some_and(|parent| parent == id) {
            all += ticks(&stat, 2)?;
        }
    }
    Ok(all)
}

/// The sum of the first so many of user and system time, and of the same of children that have ended.
fn ticks(stat: &str, count: usize) -> Outcome<Duration> {
    let ticks = fields(stat).skip(11).take(count).map(str::parse::<u64>);
    Ok(Duration::from_millis(ticks.sum::<Result<u64, _>>()? * 1000 / TICKS))
}

/// What follows the name, which may hold spaces: the state, the parent, ...
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace()
}

/// Resident memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_mb: f64,
    /// What it has allocated: neither the program itself nor anything else of the page cache.
    pub(crate) own_mb: f64,
}

/// Resident memory of a process (`self`: of this one), from what the kernel adds up over all its mappings.
pub(crate) fn memory(id: &str) -> Outcome<Memory> {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let of = |name: &str| kilobytes(&text, name).map(|kilobytes| kilobytes as f64 * 1024.0 / 1e6);
    Ok(Memory { rss_mb: of("Rss:")?, own_mb: of("Anonymous:")? })
}

/// The number behind `name` in a page of `/proc`.
pub(crate) fn kilobytes(text: &str, name: &str) -> Outcome<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(number.ok_or_else(|| format!("no {name}"))?.parse()?)
}
