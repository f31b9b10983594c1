//! A real Nginx with the shipped site between the client and a server, if `CLOUDCHAT_TEST_THROUGH` says
//! `nginx`. Only the addresses and paths of the site are replaced. `CLOUDCHAT_TEST_NGINX` names another program
//! than the `nginx` that is installed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use cloudchat::config::environment;
use tempfile::TempDir;

use super::server::free_port;
use super::until;

/// The site as it is shipped.
const SITE: &str = include_str!("../../../systemd/nginx/cloudchat.conf");
/// The name that the site stands for.
pub const NAME: &str = "chat.example.com";
/// Where the site publishes the server.
pub const PREFIX: &str = "/cloudchat";
const MISSING: &str = "Nginx is installed: run tests/run, or apt-get install nginx";
/// What stands around the site: an `nginx.conf` that compresses all and caches all, as the site that
/// CloudChat was built for does.
const AROUND: &str = "\
daemon off;
master_process off;
error_log FOLDER/error.log;
pid FOLDER/pid;
events { worker_connections 8192; }
http {
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    gzip on;
    gzip_types *;
    gzip_min_length 0;
    gzip_proxied any;
    proxy_cache_path FOLDER/everything keys_zone=everything:1m;
    proxy_cache everything;
    proxy_cache_valid any 1h;
    proxy_ignore_headers Cache-Control Expires Set-Cookie;
    include FOLDER/site.conf;
}
";

/// A running Nginx; it is killed when dropped.
pub struct Nginx {
    child: Child,
    /// Where it speaks plain HTTP, as the site does not.
    pub port: u16,
    /// Where it speaks TLS, on `::1`, whatever name is asked for.
    pub tls: u16,
    /// The same, with the server for unknown names beside the site, as it is in production.
    pub named: u16,
    /// What stands for port 80, on `127.0.0.1`.
    pub plain: u16,
    folder: TempDir,
}

/// Whether the site's head has a line for this Nginx, which is newer than 1.25.0.
fn wants_mending(program: &str) -> bool {
    let said = command(program).arg("-v").output().expect(MISSING).stderr;
    let said = String::from_utf8_lossy(&said);
    let version = said.rsplit('/').next().unwrap_or_default();
    let version = version.split_whitespace().next().unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').flat_map(str::parse).collect();
    assert_eq!(numbers.len(), 3, "{said}");
    numbers[..] > [1, 25, 0][..]
}

/// The site as that line makes it.
fn mended(site: &str) -> String {
    let line = SITE
        .lines()
        .find_map(|line| line.strip_prefix("#   sed -i '"));
    let expression = line.and_then(|line| line.split('\'').next());
    let mut sed = Command::new("sed")
        .arg(expression.expect("the site has it"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("every Unix has sed");
    let mut input = sed.stdin.take().expect("it is piped");
    input.write_all(site.as_bytes()).expect("it reads");
    drop(input);
    let made = sed.wait_with_output().expect("it is our child").stdout;
    String::from_utf8(made).expect("the site is UTF-8")
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Ports of all that run in this process.
fn fronts() -> &'static Mutex<HashSet<u16>> {
    static FRONTS: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    FRONTS.get_or_init(Mutex::default)
}

/// Whether this run's servers stand behind Nginx.
pub fn is_in_front() -> bool {
    match environment("CLOUDCHAT_TEST_THROUGH").as_deref() {
        None | Some("") => false,
        Some("nginx") => true,
        Some(other) => panic!("CLOUDCHAT_TEST_THROUGH: {other:?} is not known"),
    }
}

/// What paths begin with at this port.
pub fn prefix_at(port: u16) -> &'static str {
    let fronts = fronts().lock().expect("no holder panics");
    if fronts.contains(&port) { PREFIX } else { "" }
}

impl Nginx {
    /// In front of what listens at this port.
    pub fn before(server: u16) -> Self {
        Self::with(server, &[])
    }

    /// As `before`, with further replacements in the site; each must change something.
    pub fn with(server: u16, replacements: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let path = folder.path().to_str().expect("temporary names are UTF-8");
        let [port, tls, named, plain] = std::array::from_fn(|_| free_port());
        let mut site = SITE.to_owned();
        let on_both =
            |how| format!("listen 127.0.0.1:{named} {how};\n    listen [::1]:{named} {how};");
        let program = environment("CLOUDCHAT_TEST_NGINX").unwrap_or_else(|| "nginx".to_owned());
        let mut replace = |from: &str, to: &str| {
            assert!(site.contains(from), "the site says {from}");
            site = site.replace(from, to);
        };
        for line in [
            "80;",
            "80 default_server;",
            "443 ssl http2;",
            "443 ssl http2 default_server;",
        ] {
            replace(&format!("    listen [::]:{line}\n"), "");
        }
        replace("listen 80", &format!("listen 127.0.0.1:{plain}"));
        replace(
            "listen 443 ssl http2 default_server;",
            &on_both("ssl http2 default_server"),
        );
        replace(
            "listen 443 ssl http2;",
            &format!(
                "listen 0.0.0.0:{port}; listen [::1]:{port}; listen [::1]:{tls} ssl http2;\n    {}",
                on_both("ssl http2")
            ),
        );
        replace(
            "server 127.0.0.1:5000;",
            &format!("server 127.0.0.1:{server};"),
        );
        replace("/var/lib/nginx/cloudchat", &format!("{path}/cache"));
        replace("/etc/letsencrypt/live/chat.example.com", path);
        replace("/var/www/html", &format!("{path}/html"));
        for (from, to) in replacements {
            replace(from, to);
        }
        if wants_mending(&program) {
            site = mended(&site);
        }
        let names = [NAME, "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("it can be made");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("it is writable");
        };
        write("fullchain.pem", &made.cert.pem());
        write("privkey.pem", &made.signing_key.serialize_pem());
        write("site.conf", &site);
        write("nginx.conf", &AROUND.replace("FOLDER", path));
        fs::create_dir(folder.path().join("html")).expect("it is writable");
        let said = File::create(folder.path().join("said")).expect("it is writable");
        let child = command(&program)
            .args(["-p", path, "-c", &format!("{path}/nginx.conf")])
            .args(["-e", &format!("{path}/error.log")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect(MISSING);
        fronts().lock().expect("no holder panics").insert(port);
        let mut nginx = Self {
            child,
            port,
            tls,
            named,
            plain,
            folder,
        };
        until("Nginx to listen", || {
            let ended = nginx.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "Nginx ended:\n{}", nginx.log());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        nginx
    }

    /// The certificate that it shows, which stands for itself.
    pub fn certificate(&self) -> String {
        fs::read_to_string(self.folder.path().join("fullchain.pem")).expect("it was written")
    }

    /// Puts a file into the folder of the site's pages.
    pub fn publish(&self, name: &str, text: &str) {
        let file = self.folder.path().join("html").join(name);
        let folder = file.parent().expect("it has a name");
        fs::create_dir_all(folder).expect("it is writable");
        fs::write(file, text).expect("it is writable");
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        ["said", "error.log"]
            .map(|name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .concat()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        fronts()
            .lock()
            .expect("no holder panics")
            .remove(&self.port);
    }
}
