//! PostgreSQL and Redis, as URLs and variables name them.

use std::time::Duration;

use cloudchat::budget::Budget;
use cloudchat::config::{Database, DatabaseTls, Redis, RedisKind, Secret, Statements};

use super::{check_mistake, load};

fn database(url: &str) -> Database {
    let config = load("[server]\nworkers = 2\n", &[("DATABASE_URL", url)]).expect(url);
    config.store.database.expect("it is named")
}

fn redis(url: &str) -> Redis {
    let config = load(&format!("[redis]\nurl = '{url}'\n"), &[]).expect(url);
    config.store.redis.expect("it is named")
}

fn hosts(hosts: &[(&str, u16)]) -> Vec<(String, u16)> {
    hosts.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect()
}

#[test]
fn a_database_is_named_by_one_url() {
    let plain = database("postgresql+psycopg2://me:p%40%2F:s@127.0.0.1/chat");
    let expected = Database {
        hosts: hosts(&[("127.0.0.1", 5432)]),
        user: "me".into(),
        password: Some(Secret("p@/:s".into())),
        name: "chat".into(),
        tls: DatabaseTls::Prefer,
        ca_file: None,
        is_writable: false,
        statements: Statements::Auto,
        connections_per_core: 5,
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
    };
    assert_eq!(plain, expected);
    for (url, named) in [
        (
            "postgres:///chat?host=/var/run/postgresql&user=me",
            &[("/var/run/postgresql", 5432)][..],
        ),
        ("postgres://me@%2Frun%2Fpg:6432/chat", &[("/run/pg", 6432)]),
        (
            "postgresql+psycopg://me@DB1:1,[::1]/chat?port=2",
            &[("db1", 1), ("::1", 2)],
        ),
        (
            "postgres://x@y/z?host=a&port=7&user=me&dbname=chat",
            &[("a", 7)],
        ),
    ] {
        let found = database(url);
        assert_eq!(found.hosts, hosts(named), "{url}");
        assert_eq!((found.user.as_str(), found.name.as_str()), ("me", "chat"));
        assert_eq!(found.password, None);
    }
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (parameters, tls) in [
        ("sslmode=disable".to_owned(), DatabaseTls::Disable),
        ("sslmode=allow".into(), DatabaseTls::Prefer),
        ("sslmode=require".into(), DatabaseTls::Require),
        (
            format!("sslmode=require&sslrootcert={ca}"),
            DatabaseTls::VerifyCa,
        ),
        ("sslmode=verify-ca".into(), DatabaseTls::VerifyCa),
        (
            format!("sslmode=verify-full&sslrootcert={ca}"),
            DatabaseTls::VerifyFull,
        ),
        ("sslrootcert=system".into(), DatabaseTls::VerifyFull),
    ] {
        let found = database(&format!("postgres://me@a/chat?{parameters}"));
        assert_eq!(found.tls, tls, "{parameters}");
        assert_eq!(found.ca_file.is_some(), parameters.contains(ca));
    }
    assert!(database("postgres://me@a/chat?target_session_attrs=read-write").is_writable);
}

#[test]
fn a_database_brings_old_hashes_which_take_memory() {
    let url = [("DATABASE_URL", "postgres://me@127.0.0.1/chat")];
    let with = load("", &url).expect("it is valid");
    let without = load("", &[]).expect("it is valid");
    assert_eq!(
        (with.memory, with.auth.hash_memory_max),
        (128 << 20, 64 << 20)
    );
    assert_eq!(
        (without.memory, without.auth.hash_memory_max),
        (64 << 20, 19 << 20)
    );
    let table = Budget::new(&with).expect("128M are enough").table();
    assert!(table.contains("database connections"), "{table}");
    // Each core has its share, and at least one.
    for (workers, size, each) in [(1, 10, 10), (3, 10, 3), (8, 2, 1)] {
        let text = format!("[server]\nworkers = {workers}\n[database]\npool_size = {size}\n");
        let database = load(&text, &url).expect("it is valid").store.database;
        assert_eq!(database.expect("it is named").connections_per_core, each);
    }
}

#[test]
fn what_the_operator_should_know_of_a_database_is_a_warning() {
    let text = "[database]\nurl = 'postgres://me:hidden@db.example/chat?connect_timeout=5&a=b'\n";
    let config = load(text, &[]).expect("it is valid");
    let warnings = config.warnings.join("\n");
    assert!(
        warnings.contains("parameters not used: connect_timeout, a"),
        "{warnings}"
    );
    assert!(
        warnings.contains("without sslmode=verify-full"),
        "{warnings}"
    );
    assert!(!format!("{config:?}").contains("hidden"));
}

#[test]
fn mistakes_in_a_database_s_url_do_not_repeat_it() {
    let url = "is no URL of the form postgresql://user:password@host:port/name?sslmode=… (what is no \
               letter or digit in user and password as %XX)";
    for (text, what) in [
        ("u:hidden@a/b", url),
        ("postgres://u:hidden@a b/c", url),
        ("postgres://u:%ff@a/b", url),
        ("mysql://u:hidden@a/b", "does not begin with postgresql://"),
        (
            "postgresql+asyncpg://u:hidden@a/b",
            "does not begin with postgresql://",
        ),
        ("postgres:///b?user=u", "names no host"),
        ("postgres://a/b", "names no user"),
        ("postgres://u:hidden@a", "names no database name"),
        (
            "postgres://u@a/b?port=0",
            "its parameter port is no port, 1 to 65535",
        ),
        (
            "postgres://u@a/b?host=x%20y",
            "its parameter host is no host name, address or absolute path",
        ),
        (
            "postgres://u@a/b?sslmode=on",
            "its parameter sslmode must be disable, prefer, require, verify-ca or verify-full",
        ),
        (
            "postgres://u@a/b?sslrootcert=/nowhere",
            "its parameter sslrootcert cannot be opened: No such file or directory (os error 2)",
        ),
        (
            "postgres://u@a/b?target_session_attrs=standby",
            "its parameter target_session_attrs must be any or read-write",
        ),
    ] {
        let text = format!("[database]\nurl = '{text}'\n");
        check_mistake(&text, &format!("FILE: database.url: {what}"));
    }
    check_mistake(
        "[database]\nstatements = 'both'\n",
        "FILE: database.statements: \"both\" is not allowed; \"auto\" or \"named\" or \"unnamed\"",
    );
    check_mistake(
        "[database]\npool_size = 0\n",
        "FILE: database.pool_size: 0 is not allowed; a whole number from 1 to 1000",
    );
}

#[test]
fn a_redis_is_named_by_its_url() {
    let single = redis("redis://me:p%20s@[::1]/3");
    let expected = Redis {
        kind: RedisKind::Single,
        tls: false,
        hosts: hosts(&[("::1", 6379)]),
        user: Some("me".into()),
        password: Some(Secret("p s".into())),
        database: 3,
        key_prefix: String::new(),
        sentinel_password: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
    };
    assert_eq!(single, expected);
    assert!(redis("rediss://a").tls);
    let sentinel = redis("redis-sentinel://a,b:1/1?service=main");
    assert_eq!(sentinel.kind, RedisKind::Sentinel("main".into()));
    assert_eq!(sentinel.hosts, hosts(&[("a", 26379), ("b", 1)]));
    assert_eq!((sentinel.database, sentinel.tls), (1, false));
    let cluster = redis("rediss-cluster://:x@a:1,b:2");
    assert_eq!((cluster.kind, cluster.tls), (RedisKind::Cluster, true));
    assert_eq!(cluster.hosts, hosts(&[("a", 1), ("b", 2)]));
}

#[test]
fn the_variables_describe_one_redis() {
    let file = "[redis]\nurl = 'redis-cluster://a:1'\nkey_prefix = 'x:'\npassword = 'hidden-1'\n";
    let variables = [
        ("REDIS_HOST", "Cache"),
        ("REDIS_DB", "2"),
        ("REDIS_PASSWORD", "hidden-2"),
        ("REDIS_TIMEOUT", "0.5"),
    ];
    let config = load(file, &variables).expect("it is valid");
    let expected = Redis {
        kind: RedisKind::Single,
        tls: false,
        hosts: hosts(&[("cache", 6379)]),
        user: None,
        password: Some(Secret("hidden-2".into())),
        database: 2,
        key_prefix: "x:".into(),
        sentinel_password: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
    };
    assert_eq!(config.store.redis, Some(expected));
    assert!(!format!("{config:?}").contains("hidden"));
    // Without a host they change what the file names.
    let config = load("[redis]\nurl = 'redis://:x@a:1/3'\n", &variables[1..]).expect("it is valid");
    let found = config.store.redis.expect("it is named");
    assert_eq!(found.hosts, hosts(&[("a", 1)]));
    assert_eq!(
        (found.database, found.password),
        (2, Some(Secret("hidden-2".into())))
    );
    // Without either there is none.
    let alone = [("REDIS_PORT", "1"), ("REDIS_PASSWORD", "hidden-2")];
    let config = load("", &alone).expect("it is valid");
    assert_eq!(config.store.redis, None);
    let warnings = config.warnings.join("\n");
    for part in [
        "REDIS_PORT is not used without REDIS_HOST",
        "REDIS_DB and REDIS_PASSWORD are not used",
    ] {
        assert!(warnings.contains(part), "{warnings}");
    }
    let wrong = [
        ("REDIS_HOST", "a b"),
        ("REDIS_PORT", "0"),
        ("REDIS_DB", "256"),
    ];
    let mistakes = load("", &wrong).expect_err("all are wrong");
    assert_eq!(
        mistakes,
        [
            "environment: REDIS_HOST: \"a b\" is no host name or address",
            "environment: REDIS_PORT: \"0\" is not allowed; 1 to 65535",
            "environment: REDIS_DB: \"256\" is not allowed; 0 to 255",
        ]
    );
}

#[test]
fn mistakes_in_a_redis_url_do_not_repeat_it() {
    let url = "is no URL of the form redis://user:password@host:port/number (what is no letter or \
               digit in user and password as %XX)";
    for (text, what) in [
        ("a:6379", url),
        ("redis://:hidden@a b", url),
        (
            "http://:hidden@a",
            "begins with none of redis://, rediss://, redis-sentinel://, rediss-sentinel://, \
             redis-cluster://, rediss-cluster://",
        ),
        (
            "redis://:hidden@a,b",
            "names several hosts; use redis-sentinel:// or redis-cluster://",
        ),
        ("redis://:hidden@", "names no host"),
        ("redis://%2Frun%2Fredis", "names no host"),
        ("redis://a/x", "its database is no number from 0 to 255"),
        (
            "redis://a?x=1",
            "has a parameter that means nothing here: \"x\"",
        ),
        (
            "redis-sentinel://a",
            "names no master: add ?service=mymaster",
        ),
        ("redis-cluster://a/1", "a cluster has database 0 only"),
    ] {
        let text = format!("[redis]\nurl = '{text}'\n");
        check_mistake(&text, &format!("FILE: redis.url: {what}"));
    }
    check_mistake(
        "[redis]\nkey_prefix = '{a}'\n",
        "FILE: redis.key_prefix: is no prefix (up to 32 visible ASCII characters without braces)",
    );
}
