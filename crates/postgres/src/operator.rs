//! Who runs this program, for the records: a name such as `ann@web-1` that only the program itself can know.

use tokio::task_local;

/// Longer names are cut.
const MAX_CHARS: usize = 200;

task_local! {
    static OPERATOR: String;
}

/// Runs `work`, whatever of it is written down as done by `who`: replicas that are made in it, and changes of state.
pub async fn operated_by<T>(who: impl Into<String>, work: impl Future<Output = T>) -> T {
    let who: String = who.into().chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    OPERATOR.scope(who, work).await
}

/// Who runs what is going on, as far as that was said.
pub(crate) fn operator() -> String {
    OPERATOR.try_with(Clone::clone).unwrap_or_else(|_| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_known_inside_and_only_there() {
        assert_eq!(operated_by("ann\n@web-1", async { operator() }).await, "ann@web-1");
        assert_eq!(operator(), "unknown");
        let long = operated_by("ü".repeat(999), async { operator() }).await;
        assert_eq!(long.chars().count(), MAX_CHARS);
    }
}
