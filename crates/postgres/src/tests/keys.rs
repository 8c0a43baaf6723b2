//! Which columns name a row.

use super::support::Fixture;

/// Each a name, how the table is made, and its key columns.
const TABLES: [(&str, &str, &str); 25] = [
    ("one", "CREATE TABLE one (id int, k bigint PRIMARY KEY)", "k"),
    ("several", "CREATE TABLE several (a int, b text, c uuid, PRIMARY KEY (c, a))", "c,a"),
    ("numbered", "CREATE TABLE numbered (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)", "n"),
    ("generated", "CREATE TABLE generated (a int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)", "g"),
    ("primary_before_identity", "CREATE TABLE primary_before_identity (a int PRIMARY KEY, b int NOT NULL UNIQUE);
        ALTER TABLE primary_before_identity REPLICA IDENTITY USING INDEX primary_before_identity_b_key", "a"),
    ("replica_identity", "CREATE TABLE replica_identity (a int NOT NULL UNIQUE, b int NOT NULL, c int NOT NULL, UNIQUE (b, c));
        ALTER TABLE replica_identity REPLICA IDENTITY USING INDEX replica_identity_b_c_key", "b,c"),
    ("no_longer_identity", "CREATE TABLE no_longer_identity (a int NOT NULL UNIQUE, b int NOT NULL, c int NOT NULL, UNIQUE (b, c));
        ALTER TABLE no_longer_identity REPLICA IDENTITY USING INDEX no_longer_identity_b_c_key;
        ALTER TABLE no_longer_identity REPLICA IDENTITY FULL", "a"),
    ("fewest_columns", "CREATE TABLE fewest_columns (a int NOT NULL, b int NOT NULL, c int NOT NULL, UNIQUE (a, b), UNIQUE (c))", "c"),
    ("oldest_of_several", "CREATE TABLE oldest_of_several (a int NOT NULL, b int NOT NULL, UNIQUE (b), UNIQUE (a))", "b"),
    ("with_nulls", "CREATE TABLE with_nulls (a int UNIQUE, id int)", "id"),
    ("partly_null", "CREATE TABLE partly_null (a int NOT NULL, b int, UNIQUE (a, b))", ""),
    ("not_unique", "CREATE TABLE not_unique (a int NOT NULL); CREATE INDEX ON not_unique (a)", ""),
    ("partial", "CREATE TABLE partial (a int NOT NULL); CREATE UNIQUE INDEX ON partial (a) WHERE a > 0", ""),
    ("expression", "CREATE TABLE expression (a text NOT NULL); CREATE UNIQUE INDEX ON expression (lower(a))", ""),
    ("half_expression", "CREATE TABLE half_expression (a text NOT NULL, b int NOT NULL);
        CREATE UNIQUE INDEX ON half_expression (b, lower(a))", ""),
    ("including", "CREATE TABLE including (a int NOT NULL, b int); CREATE UNIQUE INDEX ON including (a) INCLUDE (b)", "a"),
    ("primary_including", "CREATE TABLE primary_including (a int, b int, PRIMARY KEY (a) INCLUDE (b))", "a"),
    ("put_off", "CREATE TABLE put_off (a int, id int, PRIMARY KEY (a) DEFERRABLE INITIALLY DEFERRED)", "a"),
    ("bare_id", "CREATE TABLE bare_id (v int, id text)", "id"),
    ("other_case", "CREATE TABLE other_case (\"ID\" int, \"Id\" int)", ""),
    ("dropped_id", "CREATE TABLE dropped_id (id int, v int); ALTER TABLE dropped_id DROP id", ""),
    ("moved_columns", "CREATE TABLE moved_columns (gone int, a int PRIMARY KEY); ALTER TABLE moved_columns DROP gone", "a"),
    ("excluding", "CREATE TABLE excluding (r int4range NOT NULL, EXCLUDE USING gist (r WITH &&))", ""),
    ("inheriting", "CREATE TABLE base (k int PRIMARY KEY, id int); CREATE TABLE inheriting () INHERITS (base)", "id"),
    ("nothing", "CREATE TABLE nothing ()", ""),
];

async fn key(fixture: &Fixture, table: &str) -> String {
    let sql = format!("SELECT array_to_string(dapper_orders_input.key_columns('{table}'::regclass), ',')");
    fixture.client.query_one(&sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_best_key_there_is_names_a_row() {
    let sql: Vec<&str> = TABLES.iter().map(|(_, sql, _)| *sql).collect();
    let fixture = Fixture::new(&sql.join(";")).await;
    for (table, _, expected) in TABLES {
        assert_eq!(key(&fixture, table).await, expected, "{table}");
    }
}

/// What `CREATE INDEX CONCURRENTLY` leaves when it fails says nothing of a table's rows.
#[tokio::test]
async fn an_invalid_index_is_no_key() {
    let fixture =
        Fixture::new("CREATE TABLE t (a int NOT NULL, id int); INSERT INTO t VALUES (1), (1)").await;
    let create = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)";
    assert!(fixture.client.batch_execute(create).await.is_err());
    assert_eq!(key(&fixture, "t").await, "id");
    fixture.execute("DELETE FROM t; REINDEX INDEX i").await;
    assert_eq!(key(&fixture, "t").await, "a");
}

/// A row has one key, whether it is written through the root or in its partition, whatever keys the partition has besides.
#[tokio::test]
async fn partitions_go_by_the_key_of_their_root() {
    let mut fixture = Fixture::new(
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
         CREATE TABLE m PARTITION OF p FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
         CREATE TABLE l (v int, gone int, id int); ALTER TABLE l DROP gone, ALTER v SET NOT NULL;
         ALTER TABLE l ADD PRIMARY KEY (v); ALTER TABLE m ATTACH PARTITION l FOR VALUES FROM (0) TO (100)",
    )
    .await;
    fixture.execute("INSERT INTO p VALUES (1, 10); INSERT INTO m VALUES (2, 20); INSERT INTO l (id, v) VALUES (3, 30)").await;
    assert_eq!(fixture.lines().await, ["p create 1", "p create 2", "p create 3"]);
    fixture.execute("ALTER TABLE m DETACH PARTITION l").await;
    fixture.reconcile().await;
    fixture.execute("INSERT INTO l (id, v) VALUES (4, 40)").await;
    assert_eq!(fixture.lines().await, ["l create 40"]);
}

/// Such a transaction sees the catalog as it was, and the rows as they are.
#[tokio::test]
async fn a_key_renamed_under_an_open_snapshot_fails_no_statement() {
    for images in ["key", "old-and-new"] {
        let mut fixture =
            Fixture::with("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u ()", |config| {
                config.options.insert("images".into(), images.into());
                config.options.insert("exclude_columns".into(), vec!["t.w"].into());
            })
            .await;
        fixture.execute("INSERT INTO t VALUES (1, 1)").await;
        assert_eq!(fixture.lines().await, ["t create 1"]);
        let open = fixture.database.connect().await.unwrap();
        open.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM u").await.unwrap();
        fixture.execute("ALTER TABLE t RENAME id TO number; ALTER TABLE t RENAME v TO w").await;
        // Few, many, and one that changes a key.
        open.batch_execute(
            "INSERT INTO t VALUES (2, 2); INSERT INTO t SELECT n FROM generate_series(1001, 2100) n;
             UPDATE t SET number = 3 WHERE number = 2",
        )
        .await
        .unwrap();
        fixture.execute("CREATE TABLE later (id int PRIMARY KEY)").await;
        open.batch_execute("COMMIT").await.unwrap();
        let lines = fixture.lines().await;
        assert_eq!(lines[0], "t create 2");
        assert_eq!(lines[1101..], ["t delete 2", "t create 3"], "{images}");

        open.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM u").await.unwrap();
        fixture.execute("ALTER TABLE t DROP number, DROP w, ADD x int").await;
        open.batch_execute("INSERT INTO t VALUES (9); UPDATE t SET x = 1 WHERE x = 9; COMMIT").await.unwrap();
        assert_eq!(fixture.lines().await, ["t create ", "t update "], "{images}");
    }
}

/// A cast that somebody made for a type of their own would run with the rights of whoever installed.
#[tokio::test]
async fn a_cast_to_json_runs_with_nobody_elses_rights() {
    for images in ["key", "new", "old-and-new"] {
        no_cast_runs(images).await;
    }
}

async fn no_cast_runs(images: &str) {
    let mut fixture = Fixture::with(
        "CREATE TABLE public.stolen (id text); DO $$ BEGIN CREATE ROLE mallory; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT INSERT ON stolen TO mallory;
         GRANT CREATE ON SCHEMA public TO mallory; SET ROLE mallory;
         CREATE TYPE mood AS ENUM ('good', 'so \"so\"'); CREATE DOMAIN felt AS mood; CREATE DOMAIN number AS int;
         CREATE TYPE pair AS (a int, \"B b\" mood); CREATE TYPE moods AS RANGE (subtype = mood);
         CREATE FUNCTION told(mood) RETURNS json LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.stolen SELECT current_user; RETURN ''666''; END';
         CREATE FUNCTION told(moods) RETURNS json LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.stolen SELECT current_user; RETURN ''666''; END';
         CREATE CAST (mood AS json) WITH FUNCTION told(mood); CREATE CAST (moods AS json) WITH FUNCTION told(moods);
         CREATE TABLE a (k mood PRIMARY KEY); CREATE TABLE b (k mood[] PRIMARY KEY); CREATE TABLE c (k felt PRIMARY KEY);
         CREATE TABLE d (k pair PRIMARY KEY); CREATE TABLE e (k pair[] PRIMARY KEY); CREATE TABLE f (k moods PRIMARY KEY);
         CREATE TABLE g (k number PRIMARY KEY, v number[]); CREATE TABLE h (id int PRIMARY KEY);
         CREATE TABLE j (n int, k mood, PRIMARY KEY (n, k)); RESET ROLE",
        |config| _ = config.options.insert("images".into(), images.into()),
    )
    .await;
    fixture
        .execute(
            "SET ROLE mallory;
             INSERT INTO a VALUES ('good'); UPDATE a SET k = 'so \"so\"';
             INSERT INTO b VALUES ('{good,NULL}'), ('{{good},{good}}'), ('{}');
             INSERT INTO c VALUES ('good'); INSERT INTO d VALUES ('(1,good)'), ('(,)');
             INSERT INTO e VALUES ('{\"(1,good)\"}'); INSERT INTO f VALUES ('[good,good]'); INSERT INTO g VALUES (7);
             RESET ROLE",
        )
        .await;
    assert_eq!(
        fixture.lines().await,
        [
            "a create good",
            "a delete good",
            "a create so \"so\"",
            "b create [\"good\",null]",
            "b create [[\"good\"],[\"good\"]]",
            "b create []",
            "c create good",
            "d create {\"a\":1,\"B b\":\"good\"}",
            "d create {\"a\":null,\"B b\":null}",
            "e create [{\"a\":1,\"B b\":\"good\"}]",
            "f create [good,good]",
            "g create 7",
        ]
    );
    // Many rows, and a type that has become another one since the function was made.
    fixture
        .execute(
            "SET ROLE mallory; INSERT INTO j SELECT n, 'good' FROM generate_series(1, 1001) n;
             ALTER TABLE h ALTER id TYPE mood USING 'good'; INSERT INTO h VALUES ('good');
             ALTER TABLE g ADD m mood DEFAULT 'good', DROP v; UPDATE g SET m = 'good';
             ALTER TYPE pair ADD ATTRIBUTE c mood; INSERT INTO d VALUES ('(2,good,good)'); RESET ROLE",
        )
        .await;
    let lines = fixture.lines().await;
    assert_eq!(lines[1000], "j create [1001,\"good\"]");
    assert_eq!(
        lines[1001..],
        ["h create good", "g update 7", "d create {\"a\":2,\"B b\":\"good\",\"c\":\"good\"}"]
    );
    let stolen = "SELECT coalesce(string_agg(id, ','), '') FROM stolen WHERE id <> 'mallory'";
    assert_eq!(fixture.client.query_one(stolen, &[]).await.unwrap().get::<_, String>(0), "");
}
