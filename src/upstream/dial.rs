//! Which of a provider's addresses to connect to: asked for once at a time, tried in a staggered race
//! (Happy Eyeballs, RFC 8305), and the one that won is remembered.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::clock;

/// How long resolved addresses are used; the resolver blocks a thread for every question.
const ADDRESSES_FRESH: Duration = Duration::from_secs(30);
/// Most addresses tried for one connection; further ones are left out.
const ADDRESSES_MAX: usize = 8;
/// After so long the next address is tried beside those before it (RFC 8305, 5: Connection Attempt
/// Delay); at once if one of them has failed.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long the address that won goes first, counted from its first win, so that the resolver's order
/// is tried again now and then.
const WINNER_FRESH: Duration = Duration::from_secs(600);

/// The addresses of one host, asked for once at a time and kept for a while.
#[derive(Default)]
pub(super) struct Resolver {
    known: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    /// Until when, and which.
    winner: Cell<Option<(Instant, SocketAddr)>>,
}

impl Resolver {
    /// What to try, in this order: at most 8 addresses. A winner that the host no longer has is forgotten.
    ///
    /// # Errors
    /// The system's resolver failed.
    pub async fn candidates(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let addresses = self.addresses(host, port).await?;
        let winner = self
            .winner
            .get()
            .filter(|(until, address)| clock::now() < *until && addresses.contains(address));
        self.winner.set(winner);
        Ok(order(&addresses, winner.map(|(_, address)| address)))
    }

    /// A literal address never goes to the system's resolver.
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let mut known = self.known.lock().await;
        if let Some((until, addresses)) = &*known
            && clock::now() < *until
        {
            return Ok(addresses.clone());
        }
        let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
        *known = Some((clock::now() + ADDRESSES_FRESH, addresses.clone()));
        Ok(addresses)
    }

    /// This address goes first for the next 10 minutes.
    pub fn remember(&self, address: SocketAddr) {
        if self.winner.get().is_none_or(|(_, known)| known != address) {
            let until = clock::now() + WINNER_FRESH;
            self.winner.set(Some((until, address)));
        }
    }

    /// Forgets the addresses and the winner.
    pub fn forget(&self) {
        self.winner.set(None);
        // Whoever holds the lock is asking anew.
        if let Ok(mut known) = self.known.try_lock() {
            *known = None;
        }
    }
}

/// The winner first, then the families in turn, beginning with the one that the resolver prefers
/// (RFC 8305, 4).
fn order(addresses: &[SocketAddr], winner: Option<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (ones, others): (Vec<_>, Vec<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == preferred);
    let in_turn = (0..ones.len().max(others.len()))
        .flat_map(|n| [ones.get(n).copied(), others.get(n).copied()])
        .flatten()
        .filter(|address| Some(*address) != winner);
    winner
        .into_iter()
        .chain(in_turn)
        .take(ADDRESSES_MAX)
        .collect()
}

/// Connects to the first of `addresses` that answers before `by`; which it was, and what `connect` made.
/// The next attempt begins 250 ms after the one before it (sooner if there is no time for all), or when one
/// has failed. All go on until one wins, which drops the others.
///
/// # Errors
/// The last one, or `TimedOut`.
pub(super) async fn race<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    by: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(SocketAddr, T)> {
    let mut left = addresses.iter();
    let mut running = Vec::with_capacity(addresses.len());
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    loop {
        match left.next() {
            Some(&address) => {
                let attempt = connect(address);
                running.push(Box::pin(async move { Ok((address, attempt.await?)) }));
            }
            None if running.is_empty() => return Err(last),
            None => {}
        }
        let until = match u32::try_from(left.len()).unwrap_or(u32::MAX) {
            0 => by,
            more => {
                let now = clock::now();
                let share = by.saturating_duration_since(now) / more.saturating_add(1);
                now + share.min(ATTEMPT_DELAY)
            }
        };
        match timeout_at(until, first_ready(&mut running)).await {
            Ok(Ok(won)) => return Ok(won),
            Ok(Err(error)) => last = error,
            Err(_) if clock::now() >= by => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}

/// Takes out the first of `running` that has ended.
async fn first_ready<F: Future>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|cx| {
        for (at, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(output) = attempt.as_mut().poll(cx) {
                drop(running.remove(at));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use socket2::{Domain, Socket, Type};
    use tokio::time::sleep;

    use super::super::connection::{Target, connect};
    use super::*;

    /// IPv4 or IPv6 addresses of these numbers.
    fn hosts(names: &[&str]) -> Vec<SocketAddr> {
        let host = |name: &&str| match name.split_at(1) {
            ("6", n) => format!("[2001:db8::{n}]:443").parse().expect("IPv6"),
            (_, n) => format!("192.0.2.{n}:443").parse().expect("IPv4"),
        };
        names.iter().map(host).collect()
    }

    #[test]
    fn families_take_turns_behind_the_winner() {
        let check = |addresses: &[&str], winner: Option<&str>, expect: &[&str]| {
            let winner = winner.map(|name| hosts(&[name])[0]);
            let ordered = order(&hosts(addresses), winner);
            assert_eq!(ordered, hosts(expect), "{addresses:?} {winner:?}");
        };
        check(&[], None, &[]);
        check(&["41", "42"], None, &["41", "42"]);
        check(&["61", "62", "41"], None, &["61", "41", "62"]);
        check(&["41", "42", "61", "62"], None, &["41", "61", "42", "62"]);
        check(&["61", "62", "41"], Some("41"), &["41", "61", "62"]);
        check(&["61", "62", "41"], Some("62"), &["62", "61", "41"]);
        check(
            &[
                "61", "62", "63", "64", "65", "66", "67", "68", "69", "41", "42",
            ],
            Some("69"),
            &["69", "61", "41", "62", "42", "63", "64", "65"],
        );
    }

    #[tokio::test]
    async fn a_winner_is_remembered_for_a_while() {
        tokio::time::pause();
        let resolver = Resolver::default();
        let knows = async |names: &[&str]| {
            let until = clock::now() + ADDRESSES_FRESH;
            *resolver.known.lock().await = Some((until, hosts(names)));
            resolver.candidates("a.example", 443).await.expect("known")
        };
        let all = ["61", "41", "42"];
        assert_eq!(knows(&all).await, hosts(&all));
        resolver.remember(hosts(&["42"])[0]);
        sleep(WINNER_FRESH - Duration::from_secs(1)).await;
        let behind = hosts(&["42", "61", "41"]);
        assert_eq!(knows(&all).await, behind);
        // Another win does not make it longer, so that the resolver's order gets its chance.
        resolver.remember(hosts(&["42"])[0]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(knows(&all).await, hosts(&all));
        // One that is gone does not come back.
        resolver.remember(hosts(&["42"])[0]);
        assert_eq!(knows(&["61", "41"]).await, hosts(&["61", "41"]));
        assert_eq!(knows(&all).await, hosts(&all));
        resolver.remember(hosts(&["42"])[0]);
        assert_eq!(knows(&all).await, behind);
        resolver.forget();
        assert_eq!(*resolver.known.lock().await, None);
        assert_eq!(knows(&all).await, hosts(&all));
    }

    /// What an attempt does, and after how many milliseconds.
    #[derive(Clone, Copy)]
    enum Peer {
        Accepts(u64),
        Refuses(u64),
        IsDead,
    }
    use Peer::{Accepts, IsDead, Refuses};

    /// Races against `peers` for at most `most` milliseconds: who won or the error, and when (in
    /// milliseconds) each attempt began and the race ended.
    async fn race_of(peers: &[Peer], most: u64) -> (Result<usize, io::ErrorKind>, Vec<u128>, u128) {
        let address = |at: usize| SocketAddr::from(([192, 0, 2, 1], u16::try_from(at).unwrap()));
        let addresses: Vec<_> = (0..peers.len()).map(address).collect();
        let (start, begun) = (clock::now(), RefCell::new(Vec::new()));
        let open = Rc::new(());
        let attempt = |address: SocketAddr| {
            begun.borrow_mut().push(start.elapsed().as_millis());
            let (peer, held) = (peers[usize::from(address.port())], Rc::clone(&open));
            async move {
                let _held = held;
                match peer {
                    Accepts(ms) => sleep(Duration::from_millis(ms)).await,
                    Refuses(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    IsDead => std::future::pending().await,
                }
                Ok(())
            }
        };
        let by = start + Duration::from_millis(most);
        let result = race(&addresses, by, attempt).await;
        assert_eq!(Rc::strong_count(&open), 1, "an attempt is left");
        let winner = result.map(|(address, ())| usize::from(address.port()));
        let took = start.elapsed().as_millis();
        (winner.map_err(|error| error.kind()), begun.take(), took)
    }

    #[tokio::test]
    async fn attempts_are_staggered_and_all_go_on() {
        tokio::time::pause();
        // Tokio's timer rounds up to milliseconds.
        let check = async |peers: &[Peer], most, winner, begun: &[u128], took: u128| {
            let (result, times, end) = race_of(peers, most).await;
            assert_eq!(result, winner);
            let near = |(is, expect): (&u128, &u128)| (*expect..expect + 10).contains(is);
            assert!(
                times.len() == begun.len() && times.iter().zip(begun).all(near),
                "{times:?}, not {begun:?}"
            );
            assert!(near((&end, &took)), "{end}, not {took}");
        };
        let refused = Err(io::ErrorKind::ConnectionRefused);
        let timed_out = Err(io::ErrorKind::TimedOut);
        check(&[Accepts(10), IsDead], 9000, Ok(0), &[0], 10).await;
        check(&[IsDead, Accepts(10)], 9000, Ok(1), &[0, 250], 260).await;
        // A slow one may still win.
        check(&[Accepts(400), IsDead], 9000, Ok(0), &[0, 250], 400).await;
        let slow = [Accepts(700), IsDead, Accepts(300)];
        check(&slow, 9000, Ok(0), &[0, 250, 500], 700).await;
        // A failure moves on at once, whichever attempt it is of.
        let down = [Refuses(1), Refuses(1), Accepts(1)];
        check(&down, 9000, Ok(2), &[0, 1, 2], 3).await;
        let late = [Refuses(300), IsDead, Accepts(1)];
        check(&late, 9000, Ok(2), &[0, 250, 300], 301).await;
        check(&[Refuses(1), Refuses(1)], 9000, refused, &[0, 1], 2).await;
        check(&[IsDead, Refuses(1)], 9000, timed_out, &[0, 250], 9000).await;
        // Little time is shared.
        check(&[IsDead, Accepts(1)], 100, Ok(1), &[0, 50], 51).await;
        check(&[IsDead, IsDead], 100, timed_out, &[0, 50], 100).await;
        let none = Err(io::ErrorKind::AddrNotAvailable);
        check(&[], 9000, none, &[], 0).await;
    }

    /// A listener whose queue is full: the kernel drops further connection attempts.
    fn dead_listener() -> (Socket, Vec<Socket>, SocketAddr) {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let (listener, mut fill) = (socket(), Vec::new());
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        listener.bind(&any.into()).expect("a free port");
        listener.listen(0).expect("is bound");
        let address = listener.local_addr().expect("is bound");
        loop {
            let next = socket();
            let limit = Duration::from_millis(200);
            if next.connect_timeout(&address, limit).is_err() {
                return (listener, fill, address.as_socket().expect("is IP"));
            }
            fill.push(next);
            assert!(fill.len() < 100, "the queue does not fill");
        }
    }

    /// Sockets of this host that wait for an answer (SYN-SENT) from this port of 127.0.0.1.
    fn attempts_at(port: u16) -> usize {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        let waiting = format!(" 0100007F:{port:04X} 02 ");
        sockets.lines().filter(|l| l.contains(&waiting)).count()
    }

    #[tokio::test]
    async fn a_dead_address_costs_a_quarter_of_a_second_once() {
        let (_listener, _fill, dead) = dead_listener();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let live = listener.local_addr().expect("is bound");
        let resolver = Resolver::default();
        let until = clock::now() + Duration::from_secs(60);
        *resolver.known.lock().await = Some((until, vec![dead, live]));
        let target = Target {
            host: "provider.example".to_owned(),
            port: live.port(),
            tls: None,
            receive_bytes: 8192,
        };
        let connected = async || {
            let start = clock::now();
            let by = start + Duration::from_secs(10);
            let made = connect(&target, &resolver, by).await;
            made.map(|_| start.elapsed()).expect("one is alive")
        };
        // The first attempt has begun when the second future is asked.
        let begun = async { attempts_at(dead.port()) };
        let (first, begun) = tokio::join!(connected(), begun);
        assert_eq!(begun, 1, "a socket waits for the dead address");
        assert!(
            first >= ATTEMPT_DELAY && first < Duration::from_secs(1),
            "{first:?}"
        );
        assert_eq!(attempts_at(dead.port()), 0, "the loser's socket is open");
        let ordered = resolver.candidates(&target.host, target.port).await;
        assert_eq!(ordered.expect("known"), [live, dead]);
        // The machine may be busy once, not each time.
        let mut next = Duration::MAX;
        for _ in 0..3 {
            next = next.min(connected().await);
        }
        assert!(next < ATTEMPT_DELAY, "{next:?}");
        // The winner dies: the other, which is no better, is tried too, and both are forgotten.
        drop(listener);
        let by = clock::now() + Duration::from_millis(300);
        let failure = connect(&target, &resolver, by).await.err();
        assert_eq!(failure.expect("none is alive").code(), "connect-timeout");
        assert_eq!(*resolver.known.lock().await, None);
        assert_eq!(resolver.winner.get(), None);
    }
}
