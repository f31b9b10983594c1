//! The provider client against scripted providers on loopback sockets.

mod breaker;
mod cancel;
mod heap;
mod provider;
mod responses;
mod tls;
mod warm;
