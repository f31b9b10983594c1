//! Why an answer did not come, or did not come to its end.

use std::time::Duration;

use crate::error::Error;
use crate::llm::transcoder::Fault;
use crate::metrics::Cause;
use crate::upstream::{self, Code, Failure};

/// What went wrong between a question and the end of its answer.
#[derive(Debug)]
pub enum Trouble {
    /// The provider's connection or its response head.
    Provider(Failure),
    /// What the provider sent.
    Stream(Fault),
    /// The provider said nothing for longer than a limit.
    Silent,
    /// The answer has run for as long as any answer may.
    TooLong,
    /// All breakers are open; how long until one may be tried.
    AllBroken(Duration),
    /// The session store does not answer.
    Store,
    /// The server is about to end.
    Restarting,
}

impl Trouble {
    /// Whether the next provider may be asked.
    pub fn may_fail_over(&self) -> bool {
        match self {
            Self::Provider(failure) => failure.may_fail_over(),
            Self::Stream(Fault::NoLongLine) => false,
            Self::Stream(_) | Self::Silent | Self::AllBroken(_) => true,
            Self::TooLong | Self::Store | Self::Restarting => false,
        }
    }

    /// Whether this server lacked something, which is no fault of the provider's.
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Provider(Failure::NoRoom { .. }) | Self::Stream(Fault::NoLongLine) | Self::Store
        )
    }

    /// Whether fewer of the old messages might help: the provider says that the prompt exceeds the
    /// model's context, or it sends nothing at all (llama-cpp-python does then).
    pub fn may_be_too_long(&self) -> bool {
        match self {
            Self::Provider(failure) => {
                matches!(failure, Failure::PromptTooLong { .. } | Failure::Empty)
            }
            Self::Stream(Fault::Provider(error)) => upstream::says_too_long(error.code()),
            Self::Stream(fault) => *fault == Fault::NoEvents,
            _ => false,
        }
    }

    /// What it counts as, if it is the provider's.
    pub fn cause(&self) -> Option<Cause> {
        Some(match self {
            Self::Provider(failure) => match failure {
                Failure::Unreachable { .. } => Cause::Unreachable,
                Failure::Refused { .. } | Failure::PromptTooLong { .. } => Cause::Refused,
                Failure::ModelNotServed { .. } => Cause::ModelNotServed,
                Failure::Overloaded { .. } => Cause::Overloaded,
                Failure::NoEventStream | Failure::Malformed { .. } => Cause::Malformed,
                Failure::Empty => Cause::Broken,
                Failure::Silent => Cause::Silent,
                Failure::Cut => Cause::Broken,
                Failure::NoRoom { .. } => return None,
            },
            Self::Stream(Fault::NoLongLine) => return None,
            Self::Stream(_) => Cause::Broken,
            Self::Silent => Cause::Silent,
            Self::TooLong | Self::AllBroken(_) | Self::Store | Self::Restarting => return None,
        })
    }

    /// What the client is told: what happened, no key and no internal address.
    pub fn message(&self) -> String {
        match self {
            Self::Provider(failure) => failure.to_string(),
            Self::Stream(Fault::Provider(error)) if upstream::says_too_long(error.code()) => {
                let code = Code::default();
                Failure::PromptTooLong { status: 200, code }.to_string()
            }
            Self::Stream(fault) => fault.to_string(),
            Self::Silent => "The model does not answer".to_string(),
            Self::TooLong => "The answer took too long".to_string(),
            Self::AllBroken(_) => "The model is not available, try again later".to_string(),
            Self::Store => Error::STORE_DOWN.message().to_string(),
            Self::Restarting => Error::RESTARTING.message().to_string(),
        }
    }

    /// The same as an error with a status, while none has been sent.
    pub fn into_error(self) -> Error {
        let message = self.message();
        match self {
            Self::Provider(Failure::Silent) | Self::Silent | Self::TooLong => {
                Error::ProviderSilent(message)
            }
            Self::Provider(Failure::Overloaded { retry_after, .. }) => Error::ProviderBusy {
                message,
                retry_after: retry_after.unwrap_or(5),
            },
            Self::Provider(Failure::NoRoom { .. }) | Self::Stream(Fault::NoLongLine) => {
                Error::NO_ROOM
            }
            Self::Provider(_) | Self::Stream(_) => Error::ProviderFailed(message),
            Self::AllBroken(wait) => Error::ProviderBusy {
                message,
                retry_after: u32::try_from(wait.as_secs_f64().ceil() as u64)
                    .unwrap_or(60)
                    .max(1),
            },
            Self::Store => Error::STORE_DOWN,
            Self::Restarting => Error::RESTARTING,
        }
    }
}
