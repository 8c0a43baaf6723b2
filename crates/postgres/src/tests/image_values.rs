//! Row images: no value loses anything on its way, and none is too large.

use std::sync::Arc;
use std::time::Duration;

use dapper_core::Event;
use dapper_lock::MemoryStore;
use dapper_testkit::Database;
use expect_test::expect;

use super::images::fixture;
use super::support::{Fixture, Replica, config, locks};

const VALUES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so "so"');
    CREATE TYPE pair AS (a numeric, "b c" timestamptz[]);
    CREATE DOMAIN code AS text CHECK (value <> '');
    CREATE TABLE v (
        id int PRIMARY KEY, i8 bigint, n numeric, f4 real, f8 double precision, t text, b bytea, ts timestamp, tz timestamptz,
        d date, tm time, tmz timetz, iv interval, u uuid, bo boolean, j json, jb jsonb, ia int[], ta text[], tza timestamptz[],
        e mood, p pair, c code, m money, r tstzrange, ip inet, bits bit(3), x xml, reg regclass, ch "char", nul int,
        doubled bigint GENERATED ALWAYS AS (i8 / 2 * 2) STORED);
    CREATE TABLE other (id int PRIMARY KEY)"#;

/// Of the session that writes; none of them may show.
const ODD_SETTINGS: &str = "
    SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German, DMY'; SET bytea_output = 'escape'; SET extra_float_digits = -5;
    SET IntervalStyle = 'iso_8601'; SET quote_all_identifiers = on; SET search_path = pg_catalog; SET xmlbinary = 'hex';
    SET lc_monetary = 'C.UTF-8'";

#[tokio::test]
async fn values_of_every_type_keep_every_digit_whatever_the_session_that_writes_has_set() {
    let mut fixture = fixture(VALUES, "old-and-new", &[]).await;
    fixture.execute(ODD_SETTINGS).await;
    fixture
        .execute(
            r#"INSERT INTO public.v VALUES (
                1, 9223372036854775807, 12345678901234567890123456789.0987654321000, 0.1, 0.1, E'q"\\ é\n\t\u0001', '\x00ff',
                '2026-01-02 03:04:05.000001', '2026-01-02 03:04:05.000001+00', '2026-01-02', '03:04:05.5', '03:04:05+02',
                '1 year 2 mons -3 days 04:05:06.7', '00000000-0000-0000-0000-00000000000a', true,
                E'{ "a" : [1.10, 1e400],\n "a" : "\\u0000 \\ud800" }', '{"b": 1.10, "n": 12345678901234567890.5}',
                '[0:1]={1,NULL}', '{"a,b",NULL,"NULL","{"}', '{"2026-01-02 00:00:00+00",infinity}',
                'so "so"', ROW(1.50, '{"2026-01-02 00:00:00+00"}'), 'x', '1.25', '[2026-01-02 00:00:00+00,infinity)',
                '10.0.0.1/8', B'101', '<a>&amp;</a>', 'public.other', 'x', NULL)"#,
        )
        .await;
    fixture
        .execute(
            "INSERT INTO public.v (id, n, f4, f8, ts, tz, d, iv) VALUES
                (2, 'NaN', 'NaN', '-Infinity', 'infinity', '-infinity', '0044-03-15 BC', '-1 month'),
                (3, -0.00, '-0', 1e300, '0001-01-01', '294276-12-31 23:59:59+00', '5874897-12-31', '0')",
        )
        .await;
    fixture.execute("UPDATE public.v SET nul = 1 WHERE id = 1").await;
    let events = fixture.events().await;
    expect![[r#"{"id":1,"i8":9223372036854775807,"n":12345678901234567890123456789.0987654321000,"f4":0.1,"f8":0.1,"t":"q\"\\ é\n\t\u0001","b":"\\x00ff","ts":"2026-01-02T03:04:05.000001","tz":"2026-01-02T03:04:05.000001+00:00","d":"2026-01-02","tm":"03:04:05.5","tmz":"03:04:05+02","iv":"1 year 2 mons -3 days +04:05:06.7","u":"00000000-0000-0000-0000-00000000000a","bo":true,"j":{"a":[1.10,1e400],"a":"\u0000 \ud800"},"jb":{"b":1.10,"n":12345678901234567890.5},"ia":[1,null],"ta":["a,b",null,"NULL","{"],"tza":["2026-01-02T00:00:00+00:00","infinity"],"e":"so \"so\"","p":{"a":1.50,"b c":["2026-01-02T00:00:00+00:00"]},"c":"x","m":"$1.25","r":"[\"2026-01-02 00:00:00+00\",infinity)","ip":"10.0.0.1/8","bits":"101","x":"<a>&amp;</a>","reg":"public.other","ch":"x","nul":null,"doubled":9223372036854775806}"#]]
    .assert_eq(events[0].new.as_ref().unwrap().get());
    // The same as what the table holds, read back by a session that has nothing set.
    let reader = fixture.database.connect().await.unwrap();
    reader.batch_execute("SET TimeZone = 'UTC'; SET search_path = pg_catalog").await.unwrap();
    for event in &events[1..3] {
        let sql = "SELECT row_to_json(v)::text FROM public.v WHERE id::text = $1";
        let row = reader.query_one(sql, &[&event.id]).await.unwrap();
        assert_eq!(event.new.as_ref().unwrap().get(), row.get::<_, &str>(0));
    }
    assert_eq!(events[3].old, events[0].new);
    // On one line whatever line breaks a value has, and back again from it.
    for event in &events {
        let json = event.to_json();
        assert!(!json.contains('\n'));
        assert_eq!(&serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}

#[tokio::test]
async fn generated_values_and_large_ones_that_did_not_change_are_in_the_image() {
    let mut fixture = fixture(
        "CREATE TABLE t (id int PRIMARY KEY, doc text, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
         ALTER TABLE t ALTER doc SET STORAGE EXTERNAL",
        "old-and-new",
        &[],
    )
    .await;
    let doc = "d".repeat(100_000);
    fixture.execute(&format!("INSERT INTO t (id, doc, v) VALUES (1, '{doc}', 1)")).await;
    fixture.execute("UPDATE t SET v = 2; DELETE FROM t").await;
    let image = |v: i32| format!(r#"{{"id":1,"doc":"{doc}","v":{v},"twice":{}}}"#, 2 * v);
    let events = fixture.events().await;
    let images = |event: &Event| {
        [&event.old, &event.new].map(|image| image.as_ref().map(|image| image.get().to_owned()))
    };
    assert_eq!(images(&events[0]), [None, Some(image(1))]);
    assert_eq!(images(&events[1]), [Some(image(1)), Some(image(2))]);
    assert_eq!(images(&events[2]), [Some(image(2)), None]);
}

/// Bytes of the largest payload, and how many change sets there are.
async fn payloads(fixture: &Fixture) -> (i64, i64) {
    let sql = "SELECT max(octet_length(payload))::int8, count(*) FROM dapper_orders_input.change_sets";
    let row = fixture.client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn change_sets_with_images_are_cut_by_bytes_and_a_large_row_stands_alone() {
    const MIB: i64 = 1024 * 1024;
    let mut fixture = fixture("CREATE TABLE t (id int PRIMARY KEY, doc text)", "old-and-new", &[]).await;
    // 40 MiB in rows of 20 kB, and in order.
    fixture.execute("INSERT INTO t SELECT n, repeat('x', 20000) FROM generate_series(1, 2000) n").await;
    let (largest, count) = payloads(&fixture).await;
    assert!(largest < MIB + 30_000 && (35..=45).contains(&count), "{largest} {count}");
    let ids: Vec<u32> = fixture.events().await.iter().map(|event| event.id.parse().unwrap()).collect();
    assert_eq!(ids, (1..=2000).collect::<Vec<_>>());
    // Few rows, each of them large, among small ones.
    fixture.execute("TRUNCATE dapper_orders_input.change_sets_0").await;
    fixture
        .execute(
            "INSERT INTO t SELECT n, repeat('x', CASE WHEN n % 2 = 0 THEN 3000000 ELSE 3 END)
               FROM generate_series(10001, 10005) n",
        )
        .await;
    assert_eq!(payloads(&fixture).await.1, 5);
    fixture.execute("UPDATE t SET doc = doc || 'y' WHERE id > 10000 AND id % 2 = 1").await;
    assert_eq!(payloads(&fixture).await.1, 6);
    let events = fixture.events().await;
    let lengths: Vec<usize> = events.iter().map(|event| event.new.as_ref().unwrap().get().len()).collect();
    assert_eq!(lengths, [24, 3_000_021, 24, 3_000_021, 24, 25, 25, 25]);
}

/// The server can't make a text of more than 1 GiB, and a replica should not have to take one of more than 64 MiB.
#[tokio::test]
async fn a_row_that_is_too_large_for_an_image_is_captured_without_one() {
    let mut fixture =
        fixture("CREATE TABLE t (id int PRIMARY KEY, doc bytea, a bool[], b bool[])", "old-and-new", &[])
            .await;
    let bytes = |id: i32, mb: i32| {
        format!("INSERT INTO t VALUES ({id}, convert_to(repeat('x', {mb} * 1000000), 'UTF8'))")
    };
    fixture.execute(&bytes(1, 5)).await;
    fixture.execute(&bytes(2, 40)).await;
    // Each element takes one byte, and six as JSON.
    fixture.execute("ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL").await;
    fixture
        .execute(
            "INSERT INTO t (id, a, b) SELECT 3, a, a FROM (SELECT array_fill(false, ARRAY[90000000]) AS a) f",
        )
        .await;
    fixture.execute("INSERT INTO t VALUES (4)").await;
    let seen: Vec<(String, Option<usize>)> = fixture
        .events()
        .await
        .iter()
        .map(|event| {
            (format!("{} {}", event.operation, event.id), event.new.as_ref().map(|image| image.get().len()))
        })
        .collect();
    let expected =
        [("create 1", Some(10_000_038)), ("create 2", None), ("create 3", None), ("create 4", Some(37))];
    assert_eq!(seen, expected.map(|(what, length)| (what.to_owned(), length)));
}

const RANDOM: &str = "
    CREATE TYPE pair AS (a numeric, b text);
    CREATE TABLE r (id int PRIMARY KEY, n numeric, f double precision, g real, i8 bigint, t text, b bytea, tz timestamptz,
                    iv interval, ta text[], jb jsonb, p pair, na numeric[], tr tstzrange)";

/// The image of each row says what a session with nothing set reads, and the row can be made again from it.
#[tokio::test]
async fn the_image_of_any_row_is_the_row() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut fixture = fixture(RANDOM, "new", &[]).await;
    for (round, settings) in ["", ODD_SETTINGS].into_iter().enumerate() {
        fixture.execute(settings).await;
        let rows = 150 * i32::try_from(round + 1).unwrap();
        let first = 1_000 * i32::try_from(round).unwrap();
        let mut column = |value: fn(&mut fastrand::Rng) -> String| -> Vec<Option<String>> {
            (0..rows).map(|_| (random.u8(..) > 25).then(|| value(&mut random))).collect()
        };
        let (numbers, floats, integers) = (column(number), column(float), column(|r| r.i64(..).to_string()));
        let (texts, times, jsons) =
            (column(text), column(time), column(|r| serde_json::to_string(&text(r)).unwrap()));
        let insert = format!(
            "INSERT INTO public.r
             SELECT {first} + v.id, v.n::numeric, v.f::float8, (v.f::float8 / 1e280)::real, v.i::int8, v.t, decode(md5(v.t), 'hex'),
                    v.tz::timestamptz, '1 s'::interval * (v.i::float8 / 1e6), ARRAY[v.t, NULL, v.j], v.j::jsonb,
                    ROW(v.n::numeric, v.t)::public.pair, ARRAY[v.n::numeric], tstzrange(v.tz::timestamptz, NULL)
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
                    WITH ORDINALITY v(n, f, i, t, tz, j, id)"
        );
        let insert = insert.as_str();
        // In one statement of many rows, and one row at a time.
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&numbers, &floats, &integers, &texts, &times, &jsons];
        fixture.client.execute(insert, &parameters).await.unwrap();
        for id in 0..20 {
            fixture
                .execute(&format!(
                    "UPDATE public.r SET i8 = COALESCE(i8, 0) / 2 WHERE id = {first} + {}",
                    id + 1
                ))
                .await;
        }
        let events = fixture.events().await;
        assert_eq!(events.len(), usize::try_from(rows).unwrap() + 20, "seed {seed}");
        let reader = fixture.database.connect().await.unwrap();
        reader.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
        let sql = "SELECT row_to_json(r)::text, jsonb_populate_record(NULL::r, $2::text::jsonb) IS NOT DISTINCT FROM r
                     FROM r WHERE id::text = $1";
        let mut last = std::collections::HashMap::new();
        for event in events {
            last.insert(event.id.clone(), event);
        }
        for event in last.values() {
            let image = event.new.as_ref().unwrap().get();
            let row = reader.query_one(sql, &[&event.id, &image]).await.unwrap();
            assert_eq!(image, row.get::<_, &str>(0), "seed {seed}");
            assert!(row.get::<_, bool>(1), "seed {seed}: {image}");
        }
    }
}

fn number(random: &mut fastrand::Rng) -> String {
    let digits = |random: &mut fastrand::Rng, up_to: usize| -> String {
        (0..random.usize(1..up_to)).map(|_| char::from(b'0' + random.u8(0..10))).collect()
    };
    match random.u8(0..12) {
        0 => "NaN".into(),
        _ => format!("{}{}.{}", if random.bool() { "-" } else { "" }, digits(random, 60), digits(random, 40)),
    }
}

fn float(random: &mut fastrand::Rng) -> String {
    match random.u8(0..10) {
        0 => "NaN".into(),
        1 => "-Infinity".into(),
        _ => loop {
            let float = f64::from_bits(random.u64(..));
            if float.is_finite() && float.abs() < 1e300 && float.abs() > 1e260 {
                break format!("{float:e}");
            }
        },
    }
}

fn text(random: &mut fastrand::Rng) -> String {
    let chars =
        ['a', '"', '\\', '\'', '\n', '\t', '\u{1}', '\u{7f}', 'é', '\u{2028}', '😀', '{', ',', ' ', '/', '%'];
    (0..random.usize(0..40)).map(|_| chars[random.usize(0..chars.len())]).collect()
}

fn time(random: &mut fastrand::Rng) -> String {
    match random.u8(0..10) {
        0 => "infinity".into(),
        1 => "-infinity".into(),
        // Understood whatever the DateStyle.
        _ => format!(
            "{:04}-01-02T03:04:{:02}.{:06}+05:30",
            random.u32(1..9999),
            random.u8(0..60),
            random.u32(0..1_000_000)
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_holds_a_bounded_number_of_bytes_of_unhandled_images() {
    const MIB: usize = 1024 * 1024;
    let database = Database::create().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, doc text)").await.unwrap();
    let mut config = config("orders-input", database.url());
    config.options.insert("images".into(), "new".into());
    crate::install(&config).await.unwrap();
    client
        .batch_execute("INSERT INTO t SELECT n, repeat('x', 500000) FROM generate_series(1, 160) n")
        .await
        .unwrap();
    let mut replica = Replica::start(config, locks(&Arc::new(MemoryStore::new()))).await;
    let mut held = Vec::new();
    let mut bytes = 0;
    // The reader waits for what it has handed out, and nothing of that is handled.
    while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(3), replica.deliveries.recv()).await {
        for (event, acknowledgement) in delivery.unwrap().into_events() {
            bytes += event.new.as_ref().unwrap().get().len();
            held.push(acknowledgement);
        }
    }
    assert!((32 * MIB..=34 * MIB).contains(&bytes), "{bytes}");
    let seen = held.len();
    held.into_iter().for_each(dapper_core::Acknowledgement::handled);
    assert_eq!(replica.handle_all(160 - seen).await.len(), 160 - seen);
    replica.stop().await;
}
