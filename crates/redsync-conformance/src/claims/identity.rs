//! What the node says of itself.

use crate::trial::{Breach, LONG, Trial, Verdict};

pub(crate) async fn identity_is_not_empty_and_never_changes(trial: &Trial) -> Verdict {
    let first = trial.identity().await?;
    if first.trim().is_empty() {
        return Err(Breach::answered("an identity that tells this store from others", first));
    }
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    let second = trial.identity().await?;
    holder.releases().await?;
    for later in [second, trial.identity().await?] {
        if later != first {
            return Err(Breach::answered(format!("the identity {first:?} again"), later));
        }
    }
    Ok(())
}

pub(crate) async fn display_is_one_line_and_not_empty(trial: &Trial) -> Verdict {
    let label = trial.display();
    if label.trim().is_empty() || label.contains(char::is_control) {
        return Err(Breach::answered("a name for messages, in one line", label));
    }
    Ok(())
}
