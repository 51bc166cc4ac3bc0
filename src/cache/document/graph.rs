//! The topological order of a graph whose nodes are the indexes of a list.

/// All nodes, each after those that its edges lead to. The error is a node that can be reached from itself. This is no
/// recursion, as a chain may be as long as the document.
pub(in crate::cache) fn topological_order(nodes: usize, edges: impl Fn(usize) -> Vec<usize>) -> Result<Vec<usize>, usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::No; nodes];
    let mut order = Vec::with_capacity(nodes);
    for start in 0..nodes {
        if seen[start] != Seen::No {
            continue;
        }
        seen[start] = Seen::OnPath;
        let mut path = vec![(start, edges(start))];
        while let Some((node, open)) = path.last_mut() {
            match open.pop() {
                None => {
                    seen[*node] = Seen::Done;
                    order.push(*node);
                    path.pop();
                }
                Some(next) if seen[next] == Seen::OnPath => return Err(next),
                Some(next) if seen[next] == Seen::No => {
                    seen[next] = Seen::OnPath;
                    path.push((next, edges(next)));
                }
                Some(_) => {}
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_needs_comes_first() {
        let edges = [vec![1, 2], vec![3], vec![3], vec![], vec![0]];
        assert_eq!(topological_order(5, |node| edges[node].clone()), Ok(vec![3, 2, 1, 0, 4]));
        assert!(topological_order(2, |node| vec![1 - node]).is_err());
        assert_eq!(topological_order(0, |_| Vec::new()), Ok(Vec::new()));
    }
}
