//! The minimal server that `/auth/me` on Redis and PostgreSQL is compared with: one `GET sess:…` and one
//! prepared `SELECT`, and nothing else that `/auth/me` does. One connection to each for each core.
//!
//! ```text
//! cargo run --release -p bench --bin me -- --redis redis://:…@127.0.0.1:6379 --database postgres://…
//! ```

use std::io;
use std::rc::Rc;

use bench::args::{Args, fail};
use bench::{listen, server};
use fred::prelude::{Builder, Client, ClientLike as _, Config, KeysInterface as _};
use hyper::header::COOKIE;
use hyper::{Request, body::Incoming};
use serde_json::json;
use tokio_postgres::{NoTls, Statement};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "me --redis URL --database URL [--listen 127.0.0.1:0] [--threads N]\n\
                     prints its address as http://…";
const SELECT: &str =
    "SELECT id, uid, email, phone, display_name, is_active FROM users WHERE id = $1";

/// One core's connections.
struct Stores {
    redis: Client,
    database: tokio_postgres::Client,
    select: Statement,
}

fn main() {
    let args = Args::read(USAGE, &["listen", "threads", "redis", "database"], &[]);
    let listen = args.text("listen").unwrap_or("127.0.0.1:0");
    let Ok(addr) = listen.parse() else {
        fail(&format!("--listen: {listen} is no address"))
    };
    let (Some(redis), Some(database)) = (args.text("redis"), args.text("database")) else {
        fail(USAGE)
    };
    let (redis, database) = (redis.to_owned(), database.to_owned());
    listen::raise_open_files();
    let threads = args.number("threads", listen::cores());
    let prepare = move || connect(redis.clone(), database.clone());
    let run = server::run(addr, threads, move || {
        let prepared = prepare();
        async {
            let stores = Rc::new(prepared.await?);
            Ok(move |request: Request<Incoming>| answer(Rc::clone(&stores), request))
        }
    });
    if let Err(error) = run {
        fail(&format!("me: {error}"));
    }
}

async fn connect(redis: String, database: String) -> io::Result<Stores> {
    let config = Config::from_url(&redis).map_err(io::Error::other)?;
    let redis = Builder::from_config(config).build();
    let redis = redis.map_err(io::Error::other)?;
    redis.init().await.map_err(io::Error::other)?;
    let (database, connection) = tokio_postgres::connect(&database, NoTls)
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let select = database.prepare(SELECT).await.map_err(io::Error::other)?;
    Ok(Stores {
        redis,
        database,
        select,
    })
}

async fn answer(
    stores: Rc<Stores>,
    request: Request<Incoming>,
) -> hyper::Response<http_body_util::Full<bytes::Bytes>> {
    let cookie = request.headers().get(COOKIE);
    let cookie = cookie.and_then(|cookie| cookie.to_str().ok());
    let session = cookie.and_then(|cookie| cookie.strip_prefix("cc_auth="));
    let key = format!("sess:{}", session.unwrap_or_default());
    // What fails here is a mistake of the measurement; the client sees that it is no user.
    let user: Option<i64> = stores.redis.get(key).await.unwrap_or_default();
    let rows = stores.database.query(&stores.select, &[&user]).await;
    let user = rows.ok().and_then(|rows| {
        let row = rows.into_iter().next()?;
        Some(json!({
            "id": row.get::<_, i64>(0),
            "uid": row.get::<_, &str>(1),
            "email": row.get::<_, &str>(2),
            "phone": row.get::<_, Option<&str>>(3),
            "display_name": row.get::<_, Option<&str>>(4),
            "is_active": row.get::<_, Option<bool>>(5),
        }))
    });
    let ok = user.is_some();
    server::json(json!({"ok": ok, "user": user}).to_string())
}
