//! Nodes that are another node in all but a few methods.

/// Writes the named methods of [`Node`](redsync::Node), each as that of a field: `delegate!(node: identity, uptime);`.
macro_rules! delegate {
    ($field:ident: $($method:ident),+) => { $(delegate!(@ $method $field);)+ };
    (@ identity $field:ident) => {
        fn identity(&self) -> redsync::Answer<'_, String> {
            self.$field.identity()
        }
    };
    (@ uptime $field:ident) => {
        fn uptime(&self) -> redsync::Answer<'_, redsync::Uptime> {
            self.$field.uptime()
        }
    };
    (@ health_warnings $field:ident) => {
        fn health_warnings(&self) -> redsync::Answer<'_, Vec<String>> {
            self.$field.health_warnings()
        }
    };
    (@ acquire $field:ident) => {
        fn acquire<'a>(&'a self, claim: &'a redsync::Claim) -> redsync::Answer<'a, redsync::Acquired> {
            self.$field.acquire(claim)
        }
    };
    (@ extend $field:ident) => {
        fn extend<'a>(
            &'a self,
            claim: &'a redsync::Claim,
            if_free: redsync::IfFree,
        ) -> redsync::Answer<'a, redsync::Extended> {
            self.$field.extend(claim, if_free)
        }
    };
    (@ enter $field:ident) => {
        fn enter<'a>(
            &'a self,
            client: &'a redsync::ClientId,
            places: &'a [redsync::Place],
        ) -> redsync::Answer<'a, redsync::Entered> {
            self.$field.enter(client, places)
        }
    };
    (@ yield_lease $field:ident) => {
        fn yield_lease<'a>(
            &'a self,
            client: &'a redsync::ClientId,
            place: &'a redsync::Place,
        ) -> redsync::Answer<'a, redsync::Entered> {
            self.$field.yield_lease(client, place)
        }
    };
    (@ release $field:ident) => {
        fn release<'a>(
            &'a self,
            name: &'a redsync::LockName,
            token: &'a redsync::Token,
            succession: redsync::Succession,
        ) -> redsync::Answer<'a, redsync::Released> {
            self.$field.release(name, token, succession)
        }
    };
    (@ inspect $field:ident) => {
        fn inspect<'a>(&'a self, name: &'a redsync::LockName) -> redsync::Answer<'a, redsync::Look> {
            self.$field.inspect(name)
        }
    };
    (@ list $field:ident) => {
        fn list<'a>(
            &'a self,
            search: &'a redsync::Search,
            from: &'a str,
        ) -> redsync::Answer<'a, redsync::Page> {
            self.$field.list(search, from)
        }
    };
    (@ listen $field:ident) => {
        fn listen(&self, client: &redsync::ClientId, listener: std::sync::Weak<dyn redsync::Listener>) {
            self.$field.listen(client, listener);
        }
    };
}

pub(crate) use delegate;
