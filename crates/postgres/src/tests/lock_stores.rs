//! Whose tokens the cursor is sealed by, and how it moves from one lock store to another.

use dapper_lock::{FencingToken, StoreId};

use super::support::{Fixture, config};
use crate::cursor::{Cursor, CursorStatements, Grant, Sealed};
use crate::{PostgresError, accept_lock_store};

async fn fixture() -> Fixture {
    Fixture::new("CREATE TABLE orders (id bigint PRIMARY KEY)").await
}

async fn seal(fixture: &Fixture, store: StoreId, token: u64) -> Result<Sealed, PostgresError> {
    let client = fixture.session.client();
    let statements = CursorStatements::prepare(client, &fixture.options.names.schema).await.unwrap();
    let grant = Grant { token: FencingToken::new(token).unwrap(), store };
    Cursor::seal(client, statements, &fixture.session.server, grant).await
}

async fn accept(fixture: &Fixture, store: StoreId) -> (Option<String>, u64) {
    let config = config("orders-input", fixture.database.url());
    let accepted = accept_lock_store(&config, store).await.unwrap();
    (accepted.before, accepted.token)
}

#[tokio::test]
async fn another_store_is_refused_whatever_its_tokens_until_it_is_accepted() {
    let fixture = fixture().await;
    let (old, new) = (StoreId::random(), StoreId::random());
    let mut zombie = seal(&fixture, old, 7).await.unwrap();
    for token in [1, 8, 1_000] {
        let error = seal(&fixture, new, token).await.err().unwrap();
        assert!(matches!(error, PostgresError::OtherLockStore { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("accept-lock-store") && text.contains(&old.to_string()), "{text}");
        assert!(text.contains(&new.to_string()), "{text}");
    }

    assert_eq!(accept(&fixture, new).await, (Some(old.to_string()), 7));
    // The holder by the old store is fenced, and so are its successors, from then on.
    let client = fixture.session.client();
    let fenced = zombie.cursor.save(client, &zombie.position).await;
    assert!(matches!(fenced, Err(PostgresError::Fenced { .. })), "{fenced:?}");
    assert!(matches!(seal(&fixture, old, 8).await, Err(PostgresError::OtherLockStore { .. })));

    // The new store's tokens go on where the old one's ended.
    let mut sealed = seal(&fixture, new, 1).await.unwrap();
    assert_eq!(sealed.cursor.token(), 8);
    sealed.cursor.save(client, &sealed.position).await.unwrap();
    assert!(matches!(seal(&fixture, new, 1).await, Err(PostgresError::Fenced { sealed: 8, ours: 8 })));
    assert_eq!(seal(&fixture, new, 2).await.unwrap().cursor.token(), 9);
}

#[tokio::test]
async fn a_store_that_went_back_is_refused_until_it_is_accepted() {
    let fixture = fixture().await;
    let store = StoreId::random();
    seal(&fixture, store, 7).await.unwrap();
    let error = seal(&fixture, store, 3).await.err().unwrap();
    assert!(error.to_string().contains("accept-lock-store"), "{error}");
    assert_eq!(accept(&fixture, store).await, (Some(store.to_string()), 7));
    assert_eq!(seal(&fixture, store, 4).await.unwrap().cursor.token(), 11);
}

#[tokio::test]
async fn a_store_that_dies_with_its_process_starts_anew_each_time_and_fences_all_the_same() {
    let fixture = fixture().await;
    let client = fixture.session.client();
    let mut before = seal(&fixture, StoreId::EPHEMERAL, 1).await.unwrap();
    let after = seal(&fixture, StoreId::EPHEMERAL, 1).await.unwrap();
    assert!(after.cursor.token() > before.cursor.token());
    let fenced = before.cursor.save(client, &before.position).await;
    assert!(matches!(fenced, Err(PostgresError::Fenced { .. })), "{fenced:?}");
    let other = seal(&fixture, StoreId::random(), 100).await.err().unwrap();
    assert!(matches!(other, PostgresError::OtherLockStore { .. }), "{other}");
}
