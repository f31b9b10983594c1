//! The units in `systemd/`: they are what systemd accepts, as closed as they say, and fit the program
//! and the memory plan.
//!
//! Needs the Debian packages systemd, curl and strace; systemd need not run.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::kit::server::{BINARY, run};

/// As `systemd-analyze security` counts, in tenths.
const EXPOSURE_MAX: u32 = 15;
const MIB: u64 = 1 << 20;
/// What a 1 GB server has for services, beside some 240 MB for the system itself.
const PLAN_MAX: u64 = 784 * MIB;
/// Stated in `cloudchat.service`.
const MARGIN: u64 = 32 * MIB;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn read(name: &str) -> String {
    fs::read_to_string(units().join(name)).expect("the unit is there")
}

/// All values that a unit gives to this setting.
fn values(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.to_owned())
        .collect()
}

fn bytes(text: &str) -> u64 {
    let number = text.strip_suffix('M').expect("limits are in megabytes");
    number.parse::<u64>().expect("it is a number") * MIB
}

fn memory_max(name: &str) -> u64 {
    let values = values(&read(name), "MemoryMax");
    assert_eq!(values.len(), 1, "{name}");
    bytes(&values[0])
}

/// Runs a tool of systemd: whether it was content, and all that it said.
fn tool(name: &str, args: &[&str], unit_path: &Path) -> (bool, String) {
    let output = Command::new(name)
        .args(args)
        // The system's own units, which ours name, stand behind.
        .env("SYSTEMD_UNIT_PATH", format!("{}:", unit_path.display()))
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; install the package systemd"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// A copy of the units whose program is the one under test.
fn installed() -> TempDir {
    let folder = tempfile::tempdir().expect("there is room");
    for entry in fs::read_dir(units()).expect("it is there").flatten() {
        let (from, to) = (entry.path(), folder.path().join(entry.file_name()));
        if from
            .extension()
            .is_some_and(|e| e == "service" || e == "socket" || e == "timer")
        {
            let text = fs::read_to_string(&from).expect("units are text");
            let text = text.replace("/usr/bin/cloudchat", BINARY);
            fs::write(to, text).expect("the folder is ours");
        } else if from.extension().is_some_and(|e| e == "d") {
            fs::create_dir(&to).expect("the folder is ours");
            let file = from.join("cloudchat.conf");
            fs::copy(file, to.join("cloudchat.conf")).expect("a drop-in is there");
            // What it is dropped into.
            let service = to.with_extension("");
            fs::write(service, "[Service]\nExecStart=/bin/true\n").expect("the folder is ours");
        }
    }
    folder
}

#[test]
fn systemd_accepts_the_units() {
    let folder = installed();
    let mut args = vec!["verify", "--man=no"];
    let names: Vec<String> = fs::read_dir(folder.path())
        .expect("it is ours")
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // A template is only loaded as an instance.
        .map(|name| name.replace("@.", "@15-main."))
        .collect();
    assert!(names.len() >= 10, "{names:?}");
    args.extend(names.iter().map(String::as_str));
    assert_eq!(
        tool("systemd-analyze", &args, folder.path()),
        (true, String::new())
    );
}

#[test]
fn the_service_is_as_closed_as_it_says() {
    let folder = installed();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    for name in ["cloudchat.service", "cloudchat-backup.service"] {
        let args = ["security", "--offline=true", &threshold, name];
        let (content, said) = tool("systemd-analyze", &args, folder.path());
        assert!(content, "{said}");
    }
}

#[test]
fn user_and_folders_are_made() {
    let root = tempfile::tempdir().expect("there is room");
    fs::create_dir_all(root.path().join("etc")).expect("the folder is ours");
    let at = format!("--root={}", root.path().display());
    let conf = |name: &str| units().join(name).display().to_string();
    let (made, said) = tool("systemd-sysusers", &[&at, &conf("sysusers.conf")], &units());
    assert!(made, "{said}");
    let users = fs::read_to_string(root.path().join("etc/passwd")).expect("it was made");
    assert!(users.contains("cloudchat:x:"), "{users}");
    assert!(users.trim().ends_with("/usr/sbin/nologin"), "{users}");
    let args = [&at, "--create", &conf("tmpfiles.conf")];
    let (made, said) = tool("systemd-tmpfiles", &args, &units());
    assert!(made, "{said}");
    for folder in [
        "etc/cloudchat",
        "run/cloudchat",
        "var/lib/cloudchat",
        "var/backups/cloudchat",
    ] {
        assert!(root.path().join(folder).is_dir(), "{folder}");
    }
}

#[test]
fn the_limits_follow_from_the_budget() {
    let folder = tempfile::tempdir().expect("there is room");
    let service = read("cloudchat.service");
    let files: u64 = values(&service, "LimitNOFILE")[0]
        .parse()
        .expect("a number");
    for (memory, max) in [
        ("128M", memory_max("cloudchat.service")),
        ("64M", 160 * MIB),
    ] {
        let file = folder.path().join("config.toml");
        fs::write(&file, format!("limits.memory = {memory:?}")).expect("the folder is ours");
        let file = file.to_str().expect("temporary names are UTF-8");
        let (code, out, errors) = run(&["check", "--config", file], &[]);
        assert_eq!(code, 0, "{errors}");
        let line = out
            .lines()
            .find(|line| line.trim().starts_with("files_max"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let needed: u64 = number
            .map(|number| number.replace(',', ""))
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("files_max is not printed: {out}"));
        assert!(needed <= files, "{needed} for {memory}");
        // Two processes stand side by side during a reload.
        assert_eq!(max, 2 * bytes(memory) + MARGIN);
    }
}

#[test]
fn the_memory_plan_adds_up() {
    let plan = [
        "cloudchat.service",
        "postgresql@.service.d/cloudchat.conf",
        "redis-server.service.d/cloudchat.conf",
        "nginx.service.d/cloudchat.conf",
        "pgbouncer.service.d/cloudchat.conf",
    ];
    let sum: u64 = plan.iter().map(|name| memory_max(name)).sum();
    assert!(sum <= PLAN_MAX, "{} MiB", sum / MIB);
    for readme in ["README.md", "README.zh-CN.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(readme);
        let text = fs::read_to_string(path).expect("it is there");
        for name in plan {
            let row = format!("| {} M |", memory_max(name) / MIB);
            assert!(text.contains(&row), "{readme}: {name}: {row}");
        }
        let row = format!("**{} M**", sum / MIB);
        assert!(text.contains(&row), "{readme}: {row}");
    }
}

/// The calls in a group of systemd's, those of the groups in it included.
fn calls(group: &str) -> HashSet<String> {
    let (known, said) = tool("systemd-analyze", &["syscall-filter", group], &units());
    assert!(known, "{said}");
    let lines = said.lines().map(str::trim).skip(1);
    let mut found = HashSet::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.starts_with('@') {
            true => found.extend(calls(line)),
            false => drop(found.insert(line.to_owned())),
        }
    }
    found
}

/// What `SystemCallFilter=` of a unit lets through.
fn allowed(unit: &str) -> HashSet<String> {
    let mut allowed = HashSet::new();
    for filter in values(&read(unit), "SystemCallFilter") {
        let (takes_away, list) = match filter.strip_prefix('~') {
            Some(list) => (true, list),
            None => (false, filter.as_str()),
        };
        for item in list.split_whitespace() {
            let named = match item.starts_with('@') {
                true => calls(item),
                false => HashSet::from([item.to_owned()]),
            };
            match takes_away {
                true => allowed.retain(|call| !named.contains(call)),
                false => allowed.extend(named),
            }
        }
    }
    allowed
}

#[test]
fn the_system_call_filter_lets_the_program_work() {
    use crate::kit::Provider;
    use crate::supervisor::{Held, Service, children, copy_program, test};
    let provider = Provider::friendly();
    let mut service = Service::start(Held::ByServer, &provider, "server.workers = 2");
    // A wrapper that records the calls of the next process and of all that it starts.
    let (trace, real) = (service.path("trace"), service.path("real/cloudchat"));
    fs::create_dir(service.path("real")).expect("the folder is ours");
    copy_program(Path::new(BINARY), &real);
    service.install_script(&format!(
        "exec strace -f -qq -o {} {} \"$@\"",
        trace.display(),
        real.display()
    ));
    let strace = Command::new("strace").arg("-V").output();
    assert!(strace.is_ok(), "install the package strace");
    // It is strace that would be inherited from, so the program is started afresh under it.
    service.restart();
    let main = children(service.main_pid)[0];
    assert_eq!(test(&mut service.tcp()).status, 200);
    let mut conn = service.unix();
    assert_eq!(conn.ask("Hi", &[]).reply().text(), "Hello you");
    let (code, _, errors) = run(&["reload", "--pid", &main.to_string()], &[]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(test(&mut service.tcp()).status, 200);
    let strace = service.main_pid;
    service.expect("READY=1");
    service.signal(libc::SIGTERM);
    assert_eq!(service.ended(strace), 0, "with all that it has traced");
    service.pids.clear();
    let record = fs::read_to_string(&trace).expect("strace writes it");
    let made: HashSet<String> = record
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim().split_once('('))
        .map(|(name, _)| name.to_owned())
        .filter(|name| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect();
    assert!(
        made.contains("accept4") && made.contains("execve"),
        "{made:?}"
    );
    let allowed = allowed("cloudchat.service");
    let mut refused: Vec<_> = made.difference(&allowed).collect();
    // SQLite gives new files to their database's owner if it runs as root, which the service does not.
    refused.retain(|call| *call != "fchown");
    assert!(refused.is_empty(), "{refused:?}");
}
