//! What can be given as a node.

use std::sync::Arc;

use super::Node;

/// A node as [`Redsync::new`](crate::Redsync::new) and [`Builder::node`](crate::Builder::node) take it: a value of a type that
/// is a [`Node`], an `Arc` of one, or an `Arc<dyn Node>`. Nothing else needs to implement this.
pub trait IntoNode {
    /// The node.
    fn into_node(self) -> Arc<dyn Node>;
}

impl<N: Node> IntoNode for N {
    fn into_node(self) -> Arc<dyn Node> {
        Arc::new(self)
    }
}

impl<N: Node> IntoNode for Arc<N> {
    fn into_node(self) -> Arc<dyn Node> {
        self
    }
}

impl IntoNode for Arc<dyn Node> {
    fn into_node(self) -> Arc<dyn Node> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::MemoryNode;
    use crate::redsync::Redsync;

    #[test]
    fn nodes_are_taken_as_they_are_and_shared_and_of_different_types() {
        let shared = Arc::new(MemoryNode::new());
        Redsync::new([MemoryNode::new(), MemoryNode::new()]).unwrap();
        Redsync::new([Arc::clone(&shared)]).unwrap();
        let mixed: Vec<Arc<dyn Node>> = vec![Arc::clone(&shared) as _, Arc::new(MemoryNode::new())];
        Redsync::new(mixed).unwrap();
        Redsync::builder().node(MemoryNode::new()).node(shared).build().unwrap();
    }
}
