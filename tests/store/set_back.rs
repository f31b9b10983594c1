//! Mails that were posted before the clock was set back.

use cloudchat::model::Identifier;

use super::support::{HOUR, Open, T0};

const DAY: i64 = 24 * HOUR;

#[tokio::test]
async fn mails_of_before_the_clock_was_set_back_are_due() {
    let open = Open::fresh();
    let store = open.stores.accounts.clone();
    let identifier = Identifier::parse("a@b.c").unwrap();
    store
        .post_reset_request(T0 + DAY, &identifier)
        .await
        .unwrap();
    let claimed = store.claim_letters(T0, 1000, 9).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].created_ms), (1, T0 + DAY));
    let none = Ok(vec![]);
    assert_eq!(store.claim_letters(T0 + 999, 1000, 9).await, none, "leased");
    // The longest pause is no reason.
    store.retry_letter(claimed[0].id, T0 + HOUR).await.unwrap();
    assert_eq!(store.claim_letters(T0, 1000, 9).await, none);
    assert_eq!(
        store
            .claim_letters(T0 - 4 * HOUR, 1000, 9)
            .await
            .unwrap()
            .len(),
        1
    );
    open.stop();
}
