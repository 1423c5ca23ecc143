//! `pingora_conf`: Pingora's own configuration file, as far as it is the operator's to say. What the gateway has a key of
//! its own for may stand in either, and not differently in both.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Limits;
use super::env::Env;
use super::layers::Fields;
use super::node::{Node, Value};
use super::problem::{Report, suggestion};
use super::yaml;

/// What of Pingora's server can be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pingora {
    /// `work_stealing`: worker threads take over each other's work.
    pub work_stealing: bool,
    /// `listener_tasks_per_fd`: tasks that accept connections of one socket; at least 1.
    pub listener_tasks_per_fd: usize,
    /// `grace_period_seconds`; `None`: as long as draining may take.
    pub grace: Option<Duration>,
    /// `graceful_shutdown_timeout_seconds`: what Pingora's threads have to end, after that.
    pub shutdown_timeout: Duration,
    /// `upgrade_sock`: where a new process takes the sockets over; `None`: in the journal's folder.
    pub upgrade_sock: Option<PathBuf>,
    /// `ca_file`: authorities of providers; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// `client_bind_to_ipv4`: addresses that providers are called from.
    pub bind_ipv4: Vec<String>,
    /// `client_bind_to_ipv6`.
    pub bind_ipv6: Vec<String>,
    /// `upstream_connect_offload_threadpools` and `..._thread_per_pool`: threads of their own for handshakes.
    pub offload: Option<(usize, usize)>,
    /// `max_blocking_threads`; `None`: 512.
    pub max_blocking_threads: Option<usize>,
    /// `blocking_threads_ttl_seconds`; `None`: 10 s.
    pub blocking_threads_ttl: Option<Duration>,
}

impl Default for Pingora {
    fn default() -> Self {
        Self {
            // Without it Pingora's pools race with each other.
            work_stealing: true,
            listener_tasks_per_fd: 1,
            grace: None,
            // Everything is written down before.
            shutdown_timeout: Duration::from_secs(5),
            upgrade_sock: None,
            ca_file: None,
            bind_ipv4: Vec::new(),
            bind_ipv6: Vec::new(),
            offload: None,
            max_blocking_threads: None,
            blocking_threads_ttl: None,
        }
    }
}

/// Keys that are read.
pub(super) const KEYS: [&str; 15] = [
    "version",
    "threads",
    "work_stealing",
    "listener_tasks_per_fd",
    "upstream_keepalive_pool_size",
    "grace_period_seconds",
    "graceful_shutdown_timeout_seconds",
    "upgrade_sock",
    "ca_file",
    "client_bind_to_ipv4",
    "client_bind_to_ipv6",
    "upstream_connect_offload_threadpools",
    "upstream_connect_offload_thread_per_pool",
    "max_blocking_threads",
    "blocking_threads_ttl_seconds",
];

/// Pingora's other keys, and why they are not.
const NOT_HERE: [(&[&str], &str); 6] = [
    (
        &[
            "daemon",
            "pid_file",
            "daemon_wait_for_ready",
            "daemon_ready_timeout_seconds",
            "daemon_notify_timeout_seconds",
        ],
        "the gateway stays in the foreground; leave it to systemd or a container",
    ),
    (&["user", "group", "working_directory"], "say it in the unit of systemd, or in the image"),
    (&["error_log"], "the log goes to standard error; see log_level and log_format"),
    (&["max_retries"], "see max_retries of a provider, and routing"),
    (&["upstream_debug_ssl_keylog"], "it would write down what protects the calls"),
    (
        &[
            "runtime_enable_alt_timer",
            "s2n_config_cache_size",
            "downstream_tls_offload_threadpools",
            "downstream_tls_offload_thread_per_pool",
            "upgrade_sock_connect_accept_max_retries",
            "fast_timeout_to_tokio_threshold_seconds",
            "runtime_metrics_poll_time_histogram",
            "runtime_metrics_poll_time_histogram_scale",
            "runtime_metrics_poll_time_histogram_resolution_micros",
            "runtime_metrics_poll_time_histogram_buckets",
        ],
        "it has no effect in this gateway",
    ),
];

/// More only costs memory.
const MOST_THREADS: u64 = 1024;

/// The file, and the keys of the gateway's own that it may say instead.
pub(super) struct File {
    /// What is Pingora's alone.
    pub(super) pingora: Pingora,
    threads: Option<usize>,
    pool_size: Option<usize>,
}

/// The entries of the file.
struct Entries(Vec<(String, Node)>);

impl Entries {
    fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|(name, node)| name == key && node.is_set()).map(|(_, node)| node)
    }

    fn whole(&self, key: &str, least: u64, most: u64, report: &mut Report) -> Option<u64> {
        let whole = self.get(key)?.whole(&(least.into()..=most.into()), report)?;
        u64::try_from(whole).ok()
    }

    fn count(&self, key: &str, most: u64, report: &mut Report) -> Option<usize> {
        self.whole(key, 1, most, report).and_then(|n| usize::try_from(n).ok())
    }

    fn seconds(&self, key: &str, report: &mut Report) -> Option<Duration> {
        self.whole(key, 0, 86_400, report).map(Duration::from_secs)
    }

    fn path(&self, key: &str, report: &mut Report) -> Option<PathBuf> {
        self.get(key)?.words(report).map(PathBuf::from)
    }

    /// Addresses of one family.
    fn addresses(&self, key: &str, is_v4: bool, report: &mut Report) -> Vec<String> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let texts = node.texts(report);
        for text in &texts {
            if text.parse::<IpAddr>().ok().is_none_or(|address| address.is_ipv4() != is_v4) {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                node.wrong(report, &format!("{text:?} is no {family} address of this machine."));
            }
        }
        texts
    }
}

/// The file that `pingora_conf` names; defaults without one.
pub(super) fn read(fields: &Fields, env: &Env, report: &mut Report) -> File {
    let nothing = File { pingora: Pingora::default(), threads: None, pool_size: None };
    let path = fields.words("pingora_conf", report);
    let Some((node, path)) = fields.get("pingora_conf").zip(path) else { return nothing };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            node.wrong(report, &format!("{path} cannot be read: {error}."));
            return nothing;
        }
    };
    let entries = Entries(yaml::read(&text, &path, env, report));
    known(&entries, report);
    if let Some(node) = entries.get("version") {
        node.whole(&(1..=1), report);
    }
    let default = Pingora::default();
    let seconds = |key: &str, report: &mut Report| entries.seconds(key, report);
    let pingora = Pingora {
        work_stealing: entries
            .get("work_stealing")
            .and_then(|node| node.flag(report))
            .unwrap_or(default.work_stealing),
        listener_tasks_per_fd: entries
            .count("listener_tasks_per_fd", 64, report)
            .unwrap_or(default.listener_tasks_per_fd),
        grace: seconds("grace_period_seconds", report),
        shutdown_timeout: seconds("graceful_shutdown_timeout_seconds", report)
            .unwrap_or(default.shutdown_timeout),
        upgrade_sock: entries.path("upgrade_sock", report),
        ca_file: ca_file(&entries, report),
        bind_ipv4: entries.addresses("client_bind_to_ipv4", true, report),
        bind_ipv6: entries.addresses("client_bind_to_ipv6", false, report),
        offload: offload(&entries, report),
        max_blocking_threads: entries.count("max_blocking_threads", 100_000, report),
        blocking_threads_ttl: seconds("blocking_threads_ttl_seconds", report),
    };
    let threads = entries.count("threads", MOST_THREADS, report);
    let pool_size = entries.count("upstream_keepalive_pool_size", 1_000_000, report);
    for (own, theirs, said) in [
        ("threads", "threads", threads),
        ("upstream_pool_size", "upstream_keepalive_pool_size", pool_size),
    ] {
        let (Some(node), Some(said)) = (fields.get(own), said) else { continue };
        if !matches!(&node.value, Value::Int(n) if usize::try_from(*n) == Ok(said)) {
            let found = node.found();
            let text = format!("is {found} here, and {theirs} is {said} in {path}. Say it once.");
            node.wrong(report, &text);
        }
    }
    File { pingora, threads, pool_size }
}

impl File {
    /// Worker threads, if the file says how many.
    pub(super) fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// Puts in what the file says of the gateway's own limits, and compares it with them.
    pub(super) fn limits(
        &self,
        mut limits: Limits,
        fields: &Fields,
        report: &mut Report,
    ) -> Limits {
        if let Some(size) = self.pool_size {
            limits.upstream_pool_size = size;
        }
        let least = limits.longest_end();
        if let (Some(grace), Some(node)) = (self.pingora.grace, fields.get("pingora_conf"))
            && grace < least
        {
            let (grace, least) = (grace.as_secs(), least.as_secs_f64().ceil());
            node.wrong(
                report,
                &format!(
                    "grace_period_seconds is {grace}, and lame_duck_s, drain_s and 15 s to write everything down are \
                     {least}. Leave it out, or make it larger."
                ),
            );
        }
        limits
    }
}

fn known(entries: &Entries, report: &mut Report) {
    for (key, node) in &entries.0 {
        if KEYS.contains(&key.as_str()) {
            continue;
        }
        let reason = NOT_HERE.iter().find(|(keys, _)| keys.contains(&key.as_str()));
        let text = match reason {
            Some((_, why)) => format!("{key}: not to be set here: {why}."),
            None => format!("{key}: unknown key.{}", suggestion(key, KEYS)),
        };
        report.problem(&node.key_place, text);
    }
}

fn ca_file(entries: &Entries, report: &mut Report) -> Option<PathBuf> {
    let path = entries.path("ca_file", report)?;
    if let Some(node) = entries.get("ca_file").filter(|_| !path.is_file()) {
        node.wrong(report, "there is no such file.");
    }
    Some(path)
}

fn offload(entries: &Entries, report: &mut Report) -> Option<(usize, usize)> {
    let (pools, each) =
        ("upstream_connect_offload_threadpools", "upstream_connect_offload_thread_per_pool");
    let found = (entries.count(pools, MOST_THREADS, report), entries.count(each, 64, report));
    match found {
        (Some(pools), Some(each)) => Some((pools, each)),
        (None, None) => None,
        _ => {
            if let Some(node) = entries.get(pools).or_else(|| entries.get(each)) {
                node.wrong(report, &format!("{pools} and {each} belong together: set both."));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, Env, Sources, load};
    use super::*;

    /// With this file, and these keys of the gateway's own. The texts of what is wrong come without the folder.
    fn with(text: &str, own: &str) -> Result<Config, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pingora.yml");
        std::fs::write(&path, text).unwrap();
        let yaml = format!("pingora_conf: {}\n{own}", path.display());
        let folder = format!("{}/", folder.path().display());
        let loaded = load(&Sources {
            env: Env::from_pairs([("OTARI_CONFIG_YAML", yaml)]),
            ..Sources::default()
        });
        loaded.map_err(|error| {
            let text = |problem: &crate::config::Problem| {
                format!("{} {}", problem.place, problem.text).replace(&folder, "")
            };
            error.problems.iter().map(text).collect()
        })
    }

    #[test]
    fn the_example_has_every_key_and_changes_nothing() {
        let text = include_str!("../../conf/pingora.yml");
        let none = with("", "").unwrap();
        let all = with(text, "").unwrap();
        assert_eq!((&all.pingora, all.threads), (&none.pingora, none.threads));
        assert_eq!((all.pingora, all.limits), (Pingora::default(), none.limits));
        assert!(all.warnings.is_empty(), "{:?}", all.warnings);
        for key in KEYS {
            assert!(text.contains(&format!("\n{key}:")), "{key} is not in conf/pingora.yml");
        }
    }

    #[test]
    fn what_it_says_counts() {
        let config = with(
            "threads: 3\nupstream_keepalive_pool_size: 64\nwork_stealing: false\nlistener_tasks_per_fd: 2\n\
             grace_period_seconds: 90\ngraceful_shutdown_timeout_seconds: 1\nupgrade_sock: /run/otari/upgrade\n\
             client_bind_to_ipv4: [127.0.0.1]\nupstream_connect_offload_threadpools: 1\n\
             upstream_connect_offload_thread_per_pool: 2\nmax_blocking_threads: 8\nblocking_threads_ttl_seconds: 9\n",
            "threads: 3",
        )
        .unwrap();
        assert_eq!((config.threads, config.limits.upstream_pool_size), (3, 64));
        let own = &config.pingora;
        assert_eq!(
            (own.work_stealing, own.listener_tasks_per_fd, own.offload),
            (false, 2, Some((1, 2)))
        );
        assert_eq!(
            (own.grace, own.shutdown_timeout),
            (Some(Duration::from_secs(90)), Duration::from_secs(1))
        );
        assert_eq!(own.upgrade_sock.as_deref(), Some(Path::new("/run/otari/upgrade")));
        assert_eq!(
            (own.bind_ipv4.join(","), own.max_blocking_threads),
            ("127.0.0.1".into(), Some(8))
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let wrong =
            |text: &str, own: &str| with(text, own).expect_err("it must not load").join("\n");
        assert_eq!(
            wrong("thraeds: 2", ""),
            "pingora.yml:1:1 thraeds: unknown key. Did you mean \"threads\"?"
        );
        let refused = wrong("threads: 2\ndaemon: true\nupstream_debug_ssl_keylog: true", "");
        assert!(
            refused.contains("pingora.yml:2:1 daemon: not to be set here: the gateway stays"),
            "{refused}"
        );
        assert!(refused.contains("3:1 upstream_debug_ssl_keylog: not to be set here"), "{refused}");
        let twice = wrong(
            "threads: 2\nupstream_keepalive_pool_size: 5",
            "threads: 4\nupstream_pool_size: 5",
        );
        assert_eq!(
            twice,
            "OTARI_CONFIG_YAML:2:10 threads: is 4 here, and threads is 2 in pingora.yml. Say it once."
        );
        let short = wrong("grace_period_seconds: 44", "lame_duck_s: 0\ndrain_s: 30");
        assert!(
            short.contains("grace_period_seconds is 44") && short.contains("are 45"),
            "{short}"
        );
        assert!(wrong("upstream_connect_offload_threadpools: 1", "").contains("belong together"));
        assert!(wrong("client_bind_to_ipv6: [127.0.0.1]", "").contains("no IPv6 address"));
        assert!(wrong("ca_file: /nowhere", "").contains("no such file"));
        assert!(wrong("threads: none", "").contains("a whole number from 1 to 1024"));
        let gone = load(&Sources {
            env: Env::from_pairs([("OTARI_PINGORA_CONF", "/nowhere.yml")]),
            ..Sources::default()
        });
        assert!(gone.unwrap_err().to_string().contains("/nowhere.yml cannot be read"));
    }
}
