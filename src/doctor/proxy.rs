//! Which proxy answers, by what it says of itself, and the lines that make it fit.

use hyper::HeaderMap;
use hyper::header::{HeaderName, SERVER, VIA};

const X_POWERED_BY: HeaderName = HeaderName::from_static("x-powered-by");

/// What CloudChat needs of a proxy in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Strips the prefix that the server is published under.
    Prefix,
    /// Passes `Host` as it came.
    Host,
    /// Appends the client's address to `X-Forwarded-For`.
    Address,
    /// Passes cookies as they are.
    Cookies,
    /// Keeps no answers.
    Uncached,
    /// Sends each line of a chat on at once.
    Unbuffered,
    /// Does not compress a chat.
    Plain,
    /// Lets a chat run for as long as it takes.
    Unlimited,
}

/// A proxy, and the lines of its configuration that differ from what [`general`] says.
struct Known {
    name: &'static str,
    /// Words of `Server`, `Via` and `X-Powered-By`, in lower case.
    marks: &'static [&'static str],
    lines: &'static [(Need, &'static str)],
}

const KNOWN: [Known; 13] = [
    Known {
        name: "Nginx",
        marks: &["nginx", "openresty"],
        lines: &[
            (
                Need::Prefix,
                "proxy_pass http://cloudchat/; in location /cloudchat/ (the slash strips the prefix)",
            ),
            (Need::Host, "proxy_set_header Host $http_host;"),
            (
                Need::Address,
                "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; and server.trusted_proxies with the proxy's address only",
            ),
            (
                Need::Cookies,
                "no proxy_hide_header Set-Cookie, no proxy_cookie_flags and no proxy_cookie_path",
            ),
            (
                Need::Uncached,
                "proxy_cache off; no expires, no proxy_hide_header Cache-Control in location /cloudchat/, or the shipped systemd/nginx/cloudchat.conf",
            ),
            (
                Need::Unbuffered,
                "proxy_buffering off; gzip off; for /cloudchat/deepseek_chat, and no buffering in a CDN",
            ),
            (
                Need::Plain,
                "gzip off; (and brotli off; if there is the module) for /cloudchat/deepseek_chat",
            ),
            (
                Need::Unlimited,
                "proxy_read_timeout 60s; and proxy_http_version 1.1; for /cloudchat/deepseek_chat",
            ),
        ],
    },
    Known {
        name: "Apache",
        marks: &["apache"],
        lines: &[
            (
                Need::Prefix,
                "ProxyPass /cloudchat/ http://127.0.0.1:5000/ (both with the slash)",
            ),
            (Need::Host, "ProxyPreserveHost On"),
            (Need::Uncached, "CacheDisable /cloudchat"),
            (
                Need::Unbuffered,
                "flushpackets=on behind ProxyPass /cloudchat/, and no mod_deflate for it",
            ),
            (
                Need::Plain,
                "SetEnvIf Request_URI deepseek_chat no-gzip no-brotli",
            ),
            (Need::Unlimited, "ProxyTimeout 60"),
        ],
    },
    Known {
        name: "Caddy",
        marks: &["caddy"],
        lines: &[
            (Need::Prefix, "handle_path /cloudchat/* { reverse_proxy … }"),
            (Need::Host, "no header_up Host in reverse_proxy"),
            (
                Need::Unbuffered,
                "flush_interval -1 in reverse_proxy, and Caddy 2.8 or newer",
            ),
            (Need::Plain, "no encode for /cloudchat/deepseek_chat"),
            (
                Need::Unlimited,
                "Caddy 2.8 or newer, no read_timeout and no write_timeout",
            ),
        ],
    },
    Known {
        name: "lighttpd",
        marks: &["lighttpd"],
        lines: &[
            (Need::Unbuffered, "server.stream-response-body = 1"),
            (
                Need::Plain,
                "no application/json in deflate.mimetypes for /cloudchat/deepseek_chat",
            ),
        ],
    },
    Known {
        name: "Varnish",
        marks: &["varnish"],
        lines: &[
            (Need::Uncached, "return (pass); in vcl_recv for /cloudchat/"),
            (
                Need::Unbuffered,
                "return (pass); in vcl_recv for /cloudchat/",
            ),
            (Need::Plain, "no beresp.do_gzip for /cloudchat/"),
            (
                Need::Unlimited,
                "return (pipe); or .between_bytes_timeout = 60s; in the backend",
            ),
        ],
    },
    Known {
        name: "Squid",
        marks: &["squid"],
        lines: &[
            (Need::Host, "http_port … accel vhost"),
            (Need::Address, "forwarded_for on"),
            (Need::Uncached, "cache deny all"),
        ],
    },
    Known {
        name: "nghttpx",
        marks: &["nghttpx"],
        lines: &[
            (
                Need::Address,
                "add-x-forwarded-for=yes and strip-incoming-x-forwarded-for=yes",
            ),
            (Need::Host, "no host-rewrite"),
        ],
    },
    Known {
        name: "Traffic Server",
        marks: &["ats", "apachetrafficserver"],
        lines: &[
            (
                Need::Host,
                "CONFIG proxy.config.url_remap.pristine_host_hdr INT 1",
            ),
            (Need::Uncached, "CONFIG proxy.config.http.cache.http INT 0"),
        ],
    },
    Known {
        name: "H2O",
        marks: &["h2o"],
        lines: &[
            (Need::Host, "proxy.preserve-host: ON"),
            (Need::Plain, "compress: OFF"),
            (Need::Unlimited, "proxy.timeout.io: 60000"),
        ],
    },
    Known {
        name: "Envoy",
        marks: &["envoy"],
        lines: &[
            (Need::Prefix, "prefix_rewrite: \"/\" in the route"),
            (Need::Host, "no host_rewrite in the route"),
            (
                Need::Address,
                "use_remote_address: true, and server.trusted_proxies with the proxy's address only",
            ),
            (
                Need::Unlimited,
                "timeout: 0s in the route (a whole answer has 15 s by default)",
            ),
        ],
    },
    Known {
        name: "Traefik",
        marks: &["traefik"],
        lines: &[
            (Need::Prefix, "a stripPrefix middleware"),
            (Need::Host, "passHostHeader: true"),
            (Need::Plain, "no compress middleware"),
        ],
    },
    Known {
        name: "Node",
        marks: &["next", "express", "vite"],
        lines: &[
            (Need::Host, "no changeOrigin"),
            (
                Need::Address,
                "xfwd: true adds to what the client claims: set X-Forwarded-For to the socket's address",
            ),
            (Need::Unbuffered, "compress: false"),
            (Need::Plain, "compress: false"),
        ],
    },
    // It does not say its name: what is left when nobody does.
    Known {
        name: "HAProxy",
        marks: &["haproxy"],
        lines: &[
            (
                Need::Prefix,
                "http-request replace-path /cloudchat/(.*) /\\1",
            ),
            (Need::Address, "option forwardfor"),
            (
                Need::Unbuffered,
                "option http-no-delay and option abortonclose",
            ),
            (Need::Plain, "no compression algo"),
            (Need::Unlimited, "timeout server 60s"),
        ],
    },
];

/// The proxies that an answer has come through, as far as they say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxies(Vec<usize>);

impl Proxies {
    /// By the headers of an answer.
    pub fn of(headers: &HeaderMap) -> Self {
        let values = [SERVER, VIA, X_POWERED_BY]
            .into_iter()
            .flat_map(|name| headers.get_all(name))
            .filter_map(|value| value.to_str().ok());
        let text = values.collect::<Vec<_>>().join(" ").to_ascii_lowercase();
        let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let is_named = |known: &Known| known.marks.iter().any(|mark| words.contains(mark));
        let found = KNOWN.iter().enumerate();
        Self(
            found
                .filter_map(|(i, known)| is_named(known).then_some(i))
                .collect(),
        )
    }

    /// The lines that give CloudChat what it needs.
    pub fn fix(&self, need: Need) -> String {
        let line = |i: &usize| {
            let known = &KNOWN[*i];
            let line = known.lines.iter().find(|(of, _)| *of == need);
            line.map(|(_, line)| (known.name, *line))
        };
        let lines: Vec<_> = self.0.iter().filter_map(line).collect();
        match &lines[..] {
            [] if self.0.is_empty() => {
                let haproxy = line(&(KNOWN.len() - 1));
                let haproxy = haproxy.map(|(name, line)| format!("; {name}: {line}"));
                general(need).to_owned() + &haproxy.unwrap_or_default()
            }
            [] => general(need).to_owned(),
            [(_, line)] if self.0.len() == 1 => (*line).to_owned(),
            lines => {
                let lines = lines.iter().map(|(name, line)| format!("{name}: {line}"));
                lines.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

/// The same for a proxy that is not known.
fn general(need: Need) -> &'static str {
    match need {
        Need::Prefix => {
            "the proxy must strip the prefix, or server.prefix = \"/cloudchat\" strips it"
        }
        Need::Host => {
            "the proxy must pass Host as it came; or FRONTEND_BASE_URL=…, or server.origins"
        }
        Need::Address => {
            "the proxy must append the client's address to X-Forwarded-For, and server.trusted_proxies hold the proxy's address only"
        }
        Need::Cookies => "the proxy must pass Set-Cookie as it is",
        Need::Uncached => "no cache for /cloudchat/, and Cache-Control as it is",
        Need::Unbuffered => "no buffering of /cloudchat/deepseek_chat, in a CDN neither",
        Need::Plain => "no compression of /cloudchat/deepseek_chat, in a CDN neither",
        Need::Unlimited => {
            "no limit for a whole answer of /cloudchat/deepseek_chat, and 60 s or more between two pieces"
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn proxies_are_known_by_what_they_say() {
        for (headers, names) in [
            (&[][..], &[][..]),
            (&[("server", "nginx")], &["Nginx"]),
            (&[("server", "nginx/1.22.1")], &["Nginx"]),
            (&[("server", "Apache/2.4.62 (Debian)")], &["Apache"]),
            (&[("server", "Caddy")], &["Caddy"]),
            (&[("via", "1.1 Caddy")], &["Caddy"]),
            (&[("server", "lighttpd/1.4.69")], &["lighttpd"]),
            (&[("via", "1.1 host (Varnish/7.1)")], &["Varnish"]),
            (&[("via", "1.1 host (squid/5.7)")], &["Squid"]),
            (&[("server", "nghttpx")], &["nghttpx"]),
            (&[("server", "ATS/9.2.5")], &["Traffic Server"]),
            (
                &[("via", "http/1.1 host (ApacheTrafficServer/9.2.5)")],
                &["Traffic Server"],
            ),
            (&[("server", "h2o/2.2.6")], &["H2O"]),
            (&[("server", "envoy")], &["Envoy"]),
            (&[("x-powered-by", "Next.js")], &["Node"]),
            (&[("server", "cloudflare")], &[]),
            (
                &[("server", "nginx"), ("via", "1.1 host (Varnish/7.1)")],
                &["Nginx", "Varnish"],
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            let found = Proxies::of(&map);
            let found: Vec<_> = found.0.iter().map(|i| KNOWN[*i].name).collect();
            assert_eq!(found, names, "{headers:?}");
        }
    }

    #[test]
    fn the_lines_are_those_of_the_proxies_that_answered() {
        let fix = |headers: &[(&'static str, &'static str)], need| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            Proxies::of(&map).fix(need)
        };
        let envoy = [("server", "envoy")];
        assert!(fix(&envoy, Need::Unlimited).starts_with("timeout: 0s"));
        assert_eq!(fix(&envoy, Need::Cookies), general(Need::Cookies));
        let apache = [("server", "Apache")];
        assert_eq!(fix(&apache, Need::Host), "ProxyPreserveHost On");
        let both = [("server", "nginx"), ("via", "1.1 host (Varnish/7.1)")];
        let lines = fix(&both, Need::Unbuffered);
        assert!(
            lines.starts_with("Nginx: proxy_buffering off;") && lines.contains("; Varnish: return"),
            "{lines}"
        );
        let nobody = fix(&[], Need::Unbuffered);
        assert!(
            nobody.starts_with("no buffering")
                && nobody.contains("; HAProxy: option http-no-delay"),
            "{nobody}"
        );
        assert_eq!(fix(&[], Need::Cookies), general(Need::Cookies));
    }
}
