//! Points at which tests kill or stop the process, and rules that they break: nothing at all without the feature `failpoints`.

#[cfg(feature = "failpoints")]
macro_rules! reach {
    ($point:ident) => {
        dapper_failpoints::reach(dapper_failpoints::Point::$point)
    };
}
#[cfg(not(feature = "failpoints"))]
macro_rules! reach {
    ($point:ident) => {};
}

#[cfg(feature = "failpoints")]
macro_rules! is_broken {
    ($rule:ident) => {
        dapper_failpoints::is_broken(dapper_failpoints::Rule::$rule)
    };
}
#[cfg(not(feature = "failpoints"))]
macro_rules! is_broken {
    ($rule:ident) => {
        false
    };
}
