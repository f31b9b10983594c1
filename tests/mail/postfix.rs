//! A Postfix of the test's own: a loopback address, a queue and a mailbox in a temporary folder.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, Issuer, KeyPair};
use tempfile::TempDir;

use crate::kit::until;
use crate::login::Logins;
use crate::mailbox::{Mail, read};

const MASTER: &str = "/usr/lib/postfix/sbin/master";
/// Whom delivered mails belong to: nobody (Debian's numbers).
const NOBODY: u32 = 65_534;

/// Takes mails without encryption from anybody, and offers none.
pub const PLAIN: u16 = 25;
/// Takes mails after STARTTLS and a login.
pub const STARTTLS: u16 = 587;
/// Takes mails after a login on a connection that begins with TLS.
pub const IMPLICIT: u16 = 465;
/// The same at a port that says nothing of it.
pub const ELSEWHERE: u16 = 10_465;

/// A mail server; it is stopped when dropped.
pub struct Postfix {
    /// A loopback address that no other test has, so that the usual ports are free.
    pub host: String,
    pub logins: Logins,
    folder: TempDir,
    master: Option<Child>,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("it signs itself").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }
}

impl Postfix {
    /// Starts one whose certificate is signed by `authority`.
    pub fn start(authority: &Authority) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut postfix = Self {
            host: format!("127.{}.{}.{n}", 100 + (pid >> 8) % 100, pid & 255),
            logins: Logins::start(),
            folder: tempfile::tempdir().expect("there is room for temporary files"),
            master: None,
        };
        postfix.lay_out();
        fs::write(postfix.ca_file(), &authority.pem).expect("it is writable");
        postfix.use_certificate_of(authority);
        postfix.go_on();
        postfix
    }

    /// The certificate of the authority that it was started with.
    pub fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// From its next start on it shows a certificate signed by `authority`.
    pub fn use_certificate_of(&self, authority: &Authority) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![self.host.clone()]).expect("it is an address");
        let signed = params.signed_by(&key, &authority.issuer);
        let chain = key.serialize_pem() + &signed.expect("the issuer can sign").pem();
        fs::write(self.path("chain.pem"), chain).expect("it is writable");
    }

    /// Stops it once it has delivered what it has accepted: a delivery that is cut short would be
    /// made again.
    pub fn stop(&mut self) {
        let is_empty = |queue: &&str| {
            let mut waiting = fs::read_dir(self.path(queue)).expect("it was made");
            waiting.next().is_none()
        };
        until("Postfix to deliver", || {
            let queues = ["queue/incoming", "queue/active"];
            queues.iter().all(is_empty).then_some(())
        });
        self.kill();
    }

    fn kill(&mut self) {
        let Some(mut master) = self.master.take() else {
            return;
        };
        let group = -i32::try_from(master.id()).expect("process numbers are small");
        #[expect(unsafe_code, reason = "kill(2) touches no memory of ours")]
        // SAFETY: the group is that of our own child, which has made one for itself and has not
        // been waited for.
        unsafe {
            libc::kill(group, libc::SIGKILL);
        }
        // It has no group yet if it could not start.
        master.kill().expect("it is our child");
        master.wait().expect("it is our child");
        let listens = |port| TcpStream::connect((self.host.as_str(), port)).is_ok();
        until("Postfix to leave its ports", || {
            let ports = [PLAIN, STARTTLS, IMPLICIT, ELSEWHERE];
            let left = !ports.into_iter().any(listens);
            left.then_some(())
        });
    }

    /// Starts it, again or for the first time.
    pub fn go_on(&mut self) {
        let errors = File::create(self.path("stderr")).expect("it is writable");
        let master = Command::new(MASTER)
            .arg("-c")
            .arg(self.path("etc"))
            .arg("-s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn();
        self.master = Some(master.expect("Postfix starts (Debian: postfix)"));
        until("Postfix to greet", || {
            let mut socket = TcpStream::connect((self.host.as_str(), PLAIN)).ok()?;
            let mut code = [0; 3];
            socket.read_exact(&mut code).ok()?;
            (&code == b"220").then_some(())
        });
    }

    /// All mails that were delivered, in no order.
    pub fn mails(&self) -> Vec<Mail> {
        let Ok(found) = fs::read_dir(self.path("mail/box/new")) else {
            return Vec::new();
        };
        found
            .map(|entry| read(&entry.expect("the folder is readable").path()))
            .collect()
    }

    /// Waits until this many mails were delivered; there are no more.
    #[track_caller]
    pub fn deliver(&self, count: usize) -> Vec<Mail> {
        let mails = until("mails to be delivered", || {
            Some(self.mails()).filter(|mails| mails.len() >= count)
        });
        assert_eq!(mails.len(), count, "{mails:?}");
        mails
    }

    /// The one mail with this subject, once it was delivered.
    pub fn mail(&self, subject: &str) -> Mail {
        until(subject, || {
            let mails = self.mails();
            mails.into_iter().find(|mail| mail.subject == subject)
        })
    }

    /// What it has logged.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log + &fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn lay_out(&self) {
        assert!(
            Path::new(MASTER).exists(),
            "Postfix is missing: install the Debian package postfix"
        );
        let (postfix, postdrop) = (number_of_user("postfix"), number_of_group("postdrop"));
        let folder = |name: &str, mode: u32, user: Option<u32>, group: Option<u32>| {
            let path = self.path(name);
            fs::create_dir_all(&path).expect("it is writable");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
            chown(&path, user, group).expect("the test runs as root, as Postfix must");
        };
        for name in ["", "etc", "queue", "queue/pid"] {
            folder(name, 0o755, None, None);
        }
        for name in [
            "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming",
            "private", "saved", "trace",
        ] {
            folder(&format!("queue/{name}"), 0o700, Some(postfix), None);
        }
        folder("queue/maildrop", 0o730, Some(postfix), Some(postdrop));
        folder("queue/public", 0o710, Some(postfix), Some(postdrop));
        folder("data", 0o700, Some(postfix), None);
        folder("mail", 0o700, Some(NOBODY), Some(NOBODY));
        fs::write(self.path("etc/main.cf"), self.main_cf()).expect("it is writable");
        fs::write(self.path("etc/master.cf"), self.master_cf()).expect("it is writable");
    }

    fn main_cf(&self) -> String {
        let folder = self.folder.path().display();
        let logins = self.logins.port;
        format!(
            "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mail.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = {host}
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:box/
virtual_mailbox_base = {folder}/mail
virtual_minimum_uid = 1
virtual_uid_maps = static:{NOBODY}
virtual_gid_maps = static:{NOBODY}
smtpd_tls_chain_files = {folder}/chain.pem
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:{logins}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{gone@example.com=REJECT}}, permit
smtpd_error_sleep_time = 0
",
            host = self.host,
        )
    }

    fn master_cf(&self) -> String {
        let host = &self.host;
        let login = "-o smtpd_sasl_auth_enable=yes \
                     -o smtpd_client_restrictions=permit_sasl_authenticated,reject";
        format!(
            "{host}:{PLAIN} inet n - n - - smtpd
{host}:{STARTTLS} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt {login}
{host}:{IMPLICIT} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes {login}
{host}:{ELSEWHERE} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes {login}
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
"
        )
    }
}

impl Drop for Postfix {
    #[expect(
        clippy::print_stderr,
        reason = "libtest shows it for failed tests only"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what Postfix logged ---\n{}", self.log());
        }
        self.kill();
    }
}

fn number_of_user(name: &str) -> u32 {
    number_in("/etc/passwd", name)
}

fn number_of_group(name: &str) -> u32 {
    number_in("/etc/group", name)
}

/// The number in the third field of the line that begins with this name.
fn number_in(file: &str, name: &str) -> u32 {
    let lines = fs::read_to_string(file).expect("the system has it");
    let line = lines
        .lines()
        .find(|line| line.split(':').next() == Some(name));
    let number = line.and_then(|line| line.split(':').nth(2)?.parse().ok());
    number.unwrap_or_else(|| panic!("{file} has no {name}: install the Debian package postfix"))
}
