//! The code on the repository's pages compiles: each page is the documentation of a module here, when doc tests are built.

#[doc = include_str!("../../../README.md")]
mod readme {}

#[doc = include_str!("../../../docs/coming-from-go.md")]
mod coming_from_go {}

#[doc = include_str!("../../../docs/coming-from-node-redlock.md")]
mod coming_from_node_redlock {}

#[doc = include_str!("../../../docs/coming-from-redis-py.md")]
mod coming_from_redis_py {}

#[doc = include_str!("../../../docs/coming-from-redisson.md")]
mod coming_from_redisson {}

#[doc = include_str!("../../../docs/coming-from-rslock.md")]
mod coming_from_rslock {}
