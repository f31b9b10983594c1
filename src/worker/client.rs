//! A client's connection as a task of its core.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::live::Lives;
use crate::app::{App, Phase};
use crate::clock;
use crate::connection::{self, Connection};
use crate::http::address::{self, Address};
use crate::http::wire::{ClientIo, Socket, Timeouts, Wire};
use crate::limits::{Key, Permit};
use crate::router;

/// Serves one connection to its end. It is polled again at each change of the phase, and with it the handler or
/// body that is running, so that these need not watch the phase themselves.
///
/// A type of its own rather than an `async fn`: the compiler keeps the arguments of those twice, and there are
/// as many of these as clients.
pub struct Client {
    /// Dropped first, before what says that it is there.
    connection: Connection,
    app: Rc<App>,
    phase: Phase,
    is_registered: bool,
    lives: Lives,
    wire: Rc<Wire>,
    /// Whose share of the connections this is in.
    client: Option<Key>,
    _permit: Permit,
}

impl Client {
    /// A client that has just come.
    pub fn new(app: Rc<App>, socket: Socket, peer: Address, permit: Permit, lives: Lives) -> Self {
        let config = &app.shared.config.server;
        let timeouts = Timeouts {
            head: config.head_timeout,
            idle: config.idle_timeout,
            write: config.write_timeout,
        };
        let wire = Wire::new();
        let stalled = Arc::clone(&app.shared.pools.stalled);
        let share = address::share_of_peer(config, peer);
        let io = ClientIo::new(socket, Rc::clone(&wire), timeouts, (stalled, share));
        let (api, its) = (Rc::clone(&app), Rc::clone(&wire));
        let answer = move |request| router::serve(&api, &its, peer, request);
        Self {
            connection: connection::serve(io, answer),
            app,
            phase: Phase::Running,
            is_registered: false,
            lives,
            wire,
            client: share,
            _permit: permit,
        }
    }
}

impl Future for Client {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        clock::count_poll();
        if !this.is_registered {
            this.lives.register(cx.waker(), this.client, &this.wire);
            this.is_registered = true;
        }
        if this.wire.is_ended() {
            return Poll::Ready(());
        }
        let phase = this.app.front.phase.get();
        if phase != this.phase {
            this.phase = phase;
            // After a handover nobody is in a hurry: a request may be on its way on a connection
            // that is idle, so it stays until an answer has said that it is the last.
            if phase >= Phase::Draining {
                this.connection.graceful_shutdown();
            }
        }
        Pin::new(&mut this.connection).poll(cx)
    }
}
