//! Users, rights, certificates, and secrets that stay so.

use std::time::Duration;

use dapper_lock::{HolderId, LockErrorKind, LockStore, Renewal, TryAcquire};
use dapper_lock_etcd::{EtcdLockOptions, EtcdLockStore, EtcdUser};
use dapper_testkit::EtcdOptions;
use etcd_client::{GetOptions, Permission};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{AT_ONCE, Bed, SHORT, TTL, acquire, chain, granted, manager, resource, waiting};

const PASSWORD: &str = "s3cret-canary,@";

/// An etcd in which the user `app` may read and write the keys of the test, and `reader` only read them.
async fn with_users(arguments: &[&str]) -> Bed {
    let arguments = arguments.iter().map(ToString::to_string).collect();
    let bed = Bed::private(&EtcdOptions { arguments, tls: None });
    let mut client = bed.client().await;
    for (name, permission) in
        [("app", Permission::read_write(bed.prefix())), ("reader", Permission::read(bed.prefix()))]
    {
        client.role_add(name).await.unwrap();
        client.role_grant_permission(name, permission.with_prefix()).await.unwrap();
        client.user_add(name, PASSWORD, None).await.unwrap();
        client.user_grant_role(name, name).await.unwrap();
    }
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    bed
}

fn store_as(bed: &Bed, name: &str, password: &str) -> EtcdLockStore {
    let user = EtcdUser { name: name.to_owned(), password: password.into() };
    EtcdLockStore::new(EtcdLockOptions { user: Some(user), ..bed.options() })
}

#[tokio::test]
async fn rights_to_the_prefix_are_enough() {
    let bed = with_users(&[]).await;
    let store = store_as(&bed, "app", PASSWORD);
    let probed = store.probe().await.unwrap();
    assert_eq!(probed.endpoint, bed.server.url());
    assert!(probed.version.starts_with("3."), "{probed:?}");
    let id = store.store_id().await.unwrap();
    let (one, two) = (manager(store.clone(), TTL), manager(store_as(&bed, "app", PASSWORD), TTL));
    let lease = acquire(&one).await;
    assert_eq!(one.holder(&resource()).await.unwrap().unwrap().token, lease.token());
    let next = waiting(&two).await;
    let start = Instant::now();
    lease.release().await.unwrap();
    let next = next.await.unwrap();
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert_eq!(store_as(&bed, "reader", PASSWORD).store_id().await.unwrap(), id);
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_probe_writes_nothing_and_finds_missing_rights() {
    let bed = with_users(&[]).await;
    store_as(&bed, "app", PASSWORD).probe().await.unwrap();
    let options = Some(GetOptions::new().with_prefix());
    let admin = etcd_client::ConnectOptions::new().with_user("root", "root");
    let mut client = etcd_client::Client::connect([bed.server.url()], Some(admin)).await.unwrap();
    assert_eq!(client.get(bed.prefix(), options).await.unwrap().kvs().len(), 0);
    let nobody = EtcdLockStore::new(bed.options());
    let refused = [
        (store_as(&bed, "app", "wrong-canary"), "authentication failed"),
        (store_as(&bed, "ghost", PASSWORD), "authentication failed"),
        (store_as(&bed, "reader", PASSWORD), "permission denied"),
        (nobody, "user name is empty"),
    ];
    for (store, wanted) in refused {
        for error in [
            store.probe().await.unwrap_err(),
            store.try_acquire(&resource(), &HolderId::random(), TTL).await.unwrap_err(),
        ] {
            let text = format!("{} {error:?} {store:?}", chain(&error));
            assert_eq!(error.kind, LockErrorKind::Refused, "{text}");
            assert!(text.contains(wanted), "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
    }
    let without = Bed::shared();
    let error = store_as(&without, "app", PASSWORD).probe().await.unwrap_err();
    assert!(chain(&error).contains("authentication is not enabled"), "{}", chain(&error));
}

#[tokio::test]
async fn an_expired_token_is_renewed_by_itself() {
    let bed = with_users(&["--auth-token-ttl=1"]).await;
    let store = store_as(&bed, "app", PASSWORD);
    let term = granted(&store, HolderId::random(), TTL * 3).await;
    let other = HolderId::random();
    // Tokens are thrown away a little after they have expired.
    let expire = || sleep(Duration::from_millis(2_500));
    expire().await;
    assert_eq!(store.renew(&term, TTL * 3).await.unwrap(), Renewal::Renewed);
    expire().await;
    store.wait(&resource(), &other, Duration::from_millis(100)).await.unwrap();
    expire().await;
    assert!(matches!(store.try_acquire(&resource(), &other, TTL).await.unwrap(), TryAcquire::Held(_)));
    expire().await;
    assert!(timeout(AT_ONCE, store.ended(&term)).await.is_err());
    expire().await;
    store.release(&term).await.unwrap();
    timeout(AT_ONCE, store.ended(&term)).await.unwrap();
}

#[tokio::test]
async fn users_may_be_changed_while_a_lease_is_held() {
    let bed = with_users(&[]).await;
    let store = store_as(&bed, "app", PASSWORD);
    let lease = acquire(&manager(store, SHORT * 3)).await;
    let admin = etcd_client::ConnectOptions::new().with_user("root", "root");
    let mut client = etcd_client::Client::connect([bed.server.url()], Some(admin)).await.unwrap();
    client.user_add("new", "new", None).await.unwrap();
    assert!(timeout(SHORT * 5, lease.lost()).await.is_err());
}

#[tokio::test]
async fn a_password_never_shows_when_nobody_answers() {
    let bed = Bed::shared();
    let text = format!("http://app:{}@127.0.0.1:1", "s3cret-canary");
    let options = EtcdLockOptions::from_connection_string(&text.into()).unwrap();
    let store = EtcdLockStore::new(EtcdLockOptions { prefix: bed.prefix().to_owned(), ..options });
    let error = store.try_acquire(&resource(), &HolderId::random(), TTL).await.unwrap_err();
    let text = format!("{} {error:?} {store:?}", chain(&error));
    assert_eq!(error.kind, LockErrorKind::Unavailable, "{text}");
    assert!(text.contains("http://127.0.0.1:1 failed") && text.contains("Connection refused"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_certificate_is_checked() {
    let made = |name: &str| generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let CertifiedKey { cert, signing_key } = made("127.0.0.1");
    let tls = Some((cert.pem(), signing_key.serialize_pem()));
    let bed = Bed::private(&EtcdOptions { tls, ..EtcdOptions::default() });
    assert!(bed.server.url().starts_with("https://"));
    let store = |roots: &str| {
        EtcdLockStore::new(EtcdLockOptions { tls_roots: roots.as_bytes().to_vec(), ..bed.options() })
    };
    let term = granted(&store(&cert.pem()), HolderId::random(), TTL).await;
    store(&cert.pem()).release(&term).await.unwrap();
    // Another's, and the system's.
    for roots in [made("127.0.0.1").cert.pem(), String::new()] {
        let error = store(&roots).holder(&resource()).await.unwrap_err();
        assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    }
}
