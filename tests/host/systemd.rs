//! The shipped units under a real systemd, which runs as the first process of namespaces of its own.
//!
//! Needs root, and the Debian packages systemd, util-linux and curl. Nothing outside the namespaces and
//! one folder is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::kit::server::BINARY;
use crate::kit::until;
use crate::supervisor::{children, copy_program};

/// As little as makes a unit run without the rest of a system: no users, no other units.
const CHANGES: [(&str, &str); 6] = [
    ("Wants=network-online.target\n", "DefaultDependencies=no\n"),
    (
        "User=cloudchat\nGroup=cloudchat\n",
        "User=nobody\nGroup=nogroup\n",
    ),
    ("SocketUser=cloudchat\nSocketGroup=www-data\n", ""),
    (
        "Description=Sockets of CloudChat\n",
        "DefaultDependencies=no\n",
    ),
    ("/usr/bin/cloudchat", "FOLDER/cloudchat"),
    ("/etc/cloudchat/", "FOLDER/"),
];

/// Where systemd makes the state directory, and finds units, in its own file system.
const SCRIPT: &str = "\
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
# Another cgroup namespace sees its own part of the tree only in a mount of its own.
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system /run/lock
cp \"$1\"/units/* /run/systemd/system/
export container=test SYSTEMD_UNIT_PATH=/run/systemd/system
exec /lib/systemd/systemd --system --unit=our.target --show-status=false
";

/// A running systemd; everything in it ends with it.
struct Machine {
    folder: TempDir,
    unshare: Child,
    systemd: i32,
}

impl Machine {
    fn start() -> Self {
        // Not below /tmp, which the service has to itself (`PrivateTmp=`).
        let folder = TempDir::new_in("/var").expect("this test needs root");
        let place = folder.path().to_str().expect("temporary names are UTF-8");
        let units = folder.path().join("units");
        fs::create_dir(&units).expect("the folder is ours");
        for name in ["cloudchat.service", "cloudchat.socket"] {
            let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("systemd")
                .join(name);
            let mut text = fs::read_to_string(shipped).expect("the unit is there");
            for (from, to) in CHANGES {
                text = text.replace(from, &to.replace("FOLDER", place));
            }
            fs::write(units.join(name), text).expect("the folder is ours");
        }
        let target = "[Unit]\nDefaultDependencies=no\nWants=cloudchat.socket cloudchat.service\n";
        fs::write(units.join("our.target"), target).expect("the folder is ours");
        fs::write(folder.path().join("cloudchat.env"), "").expect("the folder is ours");
        // The service's user comes in, too.
        open_for_all(folder.path(), 0o755);
        let unshare = Command::new("unshare")
            .args(["-p", "-m", "-f", "-u", "-i", "-n", "-C", "--mount-proc"])
            .args(["sh", "-c", SCRIPT, "sh", place])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install the package util-linux");
        let mut machine = Self {
            folder,
            unshare,
            systemd: 0,
        };
        machine.configure("");
        machine.install();
        let outer = machine.unshare.id() as i32;
        machine.systemd = until("the namespaces", || children(outer).first().copied());
        until("systemd to listen", || {
            let (done, _) = machine.run("systemctl", &["is-active", "init.scope"]);
            done.then_some(())
        });
        until("the service to be active", || {
            machine.show("ActiveState").eq("active").then_some(())
        });
        machine
    }

    /// Runs a command inside: whether it succeeded, and what it printed.
    fn run(&self, program: &str, args: &[&str]) -> (bool, String) {
        let output = Command::new("nsenter")
            .args([
                "-p",
                "-m",
                "-n",
                "-C",
                "-i",
                "-t",
                &self.systemd.to_string(),
            ])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("install the package util-linux");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    fn systemctl(&self, verb: &str) -> bool {
        self.run("systemctl", &[verb, "cloudchat.service"]).0
    }

    fn show(&self, property: &str) -> String {
        let args = ["show", "cloudchat.service", "--value", "-p", property];
        self.run("systemctl", &args).1.trim().to_owned()
    }

    fn is_healthy(&self) -> bool {
        let url = "http://127.0.0.1:5000/auth/healthz";
        let tcp = self.run("curl", &["-fsS", "--max-time", "5", url]).0;
        let socket = "/run/cloudchat/cloudchat.sock";
        let args = ["-fsS", "--max-time", "5", "--unix-socket", socket, url];
        tcp && self.run("curl", &args).0
    }

    fn configure(&self, text: &str) {
        let path = self.folder.path().join("config.toml");
        fs::write(path, text).expect("the folder is ours");
    }

    fn install(&self) {
        let (new, program) = (
            self.folder.path().join("new"),
            self.folder.path().join("cloudchat"),
        );
        copy_program(Path::new(BINARY), &new);
        fs::rename(new, program).expect("the folder is ours");
    }
}

fn open_for_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.systemd != 0 {
            // The first process of a process namespace takes all others along.
            crate::supervisor::send(self.systemd, libc::SIGKILL);
        }
        self.unshare.kill().unwrap_or_default();
        drop(self.unshare.wait());
    }
}

#[test]
fn the_service_starts_reloads_rolls_back_and_comes_back() {
    let machine = Machine::start();
    assert!(machine.is_healthy(), "the sandbox lets it work");
    let first = machine.show("MainPID");
    machine.install();
    assert!(
        machine.systemctl("reload"),
        "{}",
        machine.show("StatusText")
    );
    let second = machine.show("MainPID");
    assert_ne!(first, second, "a new process is the main one");
    assert!(machine.is_healthy());
    machine.configure("nonsense.key = 1");
    assert!(
        !machine.systemctl("reload"),
        "systemctl says that it failed"
    );
    assert_eq!(machine.show("MainPID"), second, "the old process goes on");
    assert!(machine.show("StatusText").contains("upgrade failed"));
    assert!(machine.is_healthy());
    machine.configure("");
    assert!(machine.systemctl("reload"), "and again");
    let third = machine.show("MainPID");
    assert_ne!(second, third);
    // systemd is not this process's parent at first, but notices its end.
    let (killed, said) = machine.run("kill", &["-9", &third]);
    assert!(killed, "{said}");
    until("the service to be started again", || {
        let pid = machine.show("MainPID");
        (pid != third && pid != "0" && machine.show("ActiveState") == "active").then_some(())
    });
    assert_eq!(machine.show("NRestarts"), "1");
    assert!(machine.is_healthy());
    for end in ["restart", "stop"] {
        assert!(machine.systemctl("reload"));
        assert!(machine.is_healthy());
        assert!(machine.systemctl(end));
        assert_eq!(machine.show("Result"), "success", "{end}");
    }
}
