//! `max_size`: what happens when nobody reads for long.

use super::support::Fixture;

async fn full() -> Fixture {
    let fixture = Fixture::with("CREATE TABLE t (id int PRIMARY KEY)", |config| {
        config.options.insert("max_size".into(), "1MB".into());
    })
    .await;
    let fill = "INSERT INTO dapper_orders_input.change_sets_0 (changes, payload)
                SELECT 1, '{\"tbl\":\"t\",\"op\":\"INSERT\",\"id\":0}' FROM generate_series(1, 10000)";
    fixture.execute(fill).await;
    fixture
}

#[tokio::test]
async fn statements_fail_by_name_while_it_is_reached_and_pass_again_afterwards() {
    let fixture = full().await;
    let mut refused = Vec::new();
    for id in 0..200 {
        if let Err(error) = fixture.client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await {
            refused.push((id, error));
        }
    }
    // Looked at once for every 64 change sets, and then until there is room.
    let (first, error) = refused.first().expect("none was refused");
    assert!(*first <= 64 && refused.len() == 200 - first, "{first}, {}", refused.len());
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "53100");
    assert!(error.message().starts_with("the change sets in \"dapper_orders_input\" take "), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("raise max_size")), "{error:?}");
    let rows = fixture.client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), i64::try_from(*first).unwrap());

    fixture.execute("TRUNCATE dapper_orders_input.change_sets_0").await;
    fixture.execute("INSERT INTO t VALUES (1000); INSERT INTO t VALUES (1001)").await;
}
