//! What the first core does besides serving.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::app::App;
use crate::log::{self, Value};
use crate::memory;

/// Tells the memory in use, now and then.
pub(super) async fn log_memory(app: Rc<App>, every: Duration) {
    loop {
        if let Some(used) = memory::resident() {
            let streams = app.shared.pools.streams.used() as u64;
            log::info(
                "memory",
                &[
                    ("rss_bytes", Value::U64(used.resident)),
                    ("peak_bytes", Value::U64(used.peak)),
                    ("limit_bytes", Value::U64(app.shared.config.memory as u64)),
                    ("streams", Value::U64(streams)),
                ],
            );
        }
        sleep(every).await;
    }
}

/// Warns of models that their provider no longer serves.
pub(super) async fn check_models(app: Rc<App>) {
    for (index, row) in app.upstream.providers().iter().enumerate() {
        if let Ok(Some(false)) = app.upstream.model_served(index).await {
            log::warn(
                "model not served",
                &[
                    ("provider", Value::Str(&row.name)),
                    ("model", Value::Str(&row.model)),
                ],
            );
        }
    }
}
