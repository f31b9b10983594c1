//! What can go wrong with a request, in the product's words. Knows no HTTP:
//! `http::reply` gives each one its status.

/// Why a request was not served. Texts go to the client as they are, so they hold no secret.
#[derive(Debug)]
pub enum Error {
    /// A field is missing or not as it must be.
    Invalid(&'static str),
    /// A new password will not do.
    Weak {
        /// What the client is told.
        message: &'static str,
        /// What is wrong with it: `short`, `long`, `kinds` or `common`.
        reason: &'static str,
    },
    /// The body is not declared as JSON where that matters.
    UnsupportedType,
    /// The body is over its limit.
    BodyTooLarge,
    /// The body was not complete in time.
    BodyTimeout,
    /// The body broke off or broke the protocol's rules.
    BodyBroken,
    /// Nobody is logged in where somebody must be.
    Unauthorized,
    /// No such user, a wrong password, an inactive user, or too many of these before: the same for
    /// all of them.
    InvalidCredentials,
    /// Somebody else has what was asked for; what it is.
    Taken(&'static str),
    /// A browser sent this on behalf of another site.
    CrossSite,
    /// No such path.
    NotFound,
    /// The path exists, but not for this method; the methods it takes.
    MethodNotAllowed(&'static str),
    /// Over a rate limit; seconds until it makes sense to try again.
    TooMany(u32),
    /// Something we have only so much of is used up, or a store is down.
    Unavailable {
        /// What the client is told.
        message: &'static str,
        /// Seconds until it makes sense to try again.
        retry_after: u32,
    },
    /// The provider refused, was unreachable, or spoke no event stream.
    ProviderFailed(String),
    /// The provider is overloaded.
    ProviderBusy {
        /// What the client is told.
        message: String,
        /// Seconds until it makes sense to try again.
        retry_after: u32,
    },
    /// The provider was silent for longer than a limit.
    ProviderSilent(String),
}

impl Error {
    /// A store does not answer.
    pub const STORE_DOWN: Self = Self::Unavailable {
        message: "Service unavailable",
        retry_after: 2,
    };
    /// The memory budget, or the hasher's queue, has no room for this request now.
    pub const NO_ROOM: Self = Self::Unavailable {
        message: "Busy, try again",
        retry_after: 2,
    };
    /// The server is about to end.
    pub const RESTARTING: Self = Self::Unavailable {
        message: "Server restarting",
        retry_after: 2,
    };

    /// The text for the client.
    pub fn message(&self) -> &str {
        match self {
            Self::Invalid(message)
            | Self::Weak { message, .. }
            | Self::Taken(message)
            | Self::Unavailable { message, .. } => message,
            Self::UnsupportedType => "Content-Type must be application/json",
            Self::BodyTooLarge => "Request body too large",
            Self::BodyTimeout => "Request body took too long",
            Self::BodyBroken => "Request body incomplete",
            Self::Unauthorized => "Unauthorized",
            Self::InvalidCredentials => "Invalid credentials",
            Self::CrossSite => "Cross-site request",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed(_) => "Method not allowed",
            Self::TooMany(_) => "Too many requests",
            Self::ProviderFailed(message)
            | Self::ProviderBusy { message, .. }
            | Self::ProviderSilent(message) => message,
        }
    }

    /// Seconds after which the client may try again, where that helps.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::TooMany(seconds) => Some(*seconds),
            Self::Unavailable { retry_after, .. } | Self::ProviderBusy { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }
}
