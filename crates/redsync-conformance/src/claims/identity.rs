//! What the node says of itself.

use redsync::{IfFree, Uptime};

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

pub(crate) async fn uptime_only_grows_while_a_lease_stands(trial: &Trial) -> Verdict {
    let first = trial.uptime().await?;
    let holder = trial.lock().owner("holder");
    holder.is_granted(LONG).await?;
    let second = trial.uptime().await?;
    holder.extends(LONG, IfFree::Leave).await?;
    let third = trial.uptime().await?;
    holder.releases().await?;
    for (earlier, later) in [(first, second), (second, third)] {
        let grows = match (earlier, later) {
            (Uptime::Unbroken, Uptime::Unbroken) => true,
            (Uptime::AtLeast(earlier), Uptime::AtLeast(later)) => later >= earlier,
            _ => false,
        };
        if !grows {
            return Err(Breach::answered(
                format!("an uptime that is known, after {earlier:?}"),
                format!("{later:?}"),
            ));
        }
    }
    Ok(())
}

pub(crate) async fn health_warnings_are_one_line_each(trial: &Trial) -> Verdict {
    for warning in trial.health_warnings().await? {
        if warning.trim().is_empty() || warning.contains(char::is_control) {
            return Err(Breach::answered("what is wrong, in one line", warning));
        }
    }
    Ok(())
}
