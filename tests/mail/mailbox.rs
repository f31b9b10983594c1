//! Delivered mails, read by a MIME parser.

use std::fs;
use std::path::Path;

use mail_parser::{Address, MessageParser};

/// A delivered mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    pub subject: String,
    /// Name and address.
    pub from: (String, String),
    /// Address of each recipient named in the head.
    pub to: Vec<String>,
    pub id: String,
    pub text: String,
    /// The names of the fields in the head.
    pub fields: Vec<String>,
    /// Whom the mail server was told to deliver it to.
    pub delivered_to: String,
    pub has_date: bool,
}

impl Mail {
    /// The token of the link in it.
    pub fn token(&self) -> &str {
        let (_, rest) = self
            .text
            .split_once("/reset_password?token=")
            .expect("it has a link");
        rest.split_whitespace().next().unwrap_or_default()
    }
}

pub fn read(file: &Path) -> Mail {
    let bytes = fs::read(file).expect("it is readable");
    let message = MessageParser::new().parse(&bytes).expect("it is a mail");
    let people = |address: Option<&Address<'_>>| -> Vec<(String, String)> {
        let each = address.into_iter().flat_map(Address::iter);
        each.map(|one| {
            (
                one.name().unwrap_or_default().to_owned(),
                one.address().unwrap_or_default().to_owned(),
            )
        })
        .collect()
    };
    let from = people(message.from());
    assert_eq!(from.len(), 1, "one sender");
    let delivered_to = message.header_raw("X-Original-To").unwrap_or_default();
    Mail {
        subject: message.subject().unwrap_or_default().to_owned(),
        from: from[0].clone(),
        to: people(message.to()).into_iter().map(|(_, to)| to).collect(),
        id: message.message_id().unwrap_or_default().to_owned(),
        text: message.body_text(0).unwrap_or_default().into_owned(),
        fields: message
            .headers()
            .iter()
            .map(|field| field.name().to_owned())
            .collect(),
        delivered_to: delivered_to.trim().to_owned(),
        has_date: message.date().is_some(),
    }
}
