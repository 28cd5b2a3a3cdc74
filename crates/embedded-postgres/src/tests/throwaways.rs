//! Clusters that end with the process that made them.

use super::*;

#[tokio::test]
async fn a_throwaway_is_removed_when_closed_or_dropped() {
    for close in [true, false] {
        let cluster = Cluster::throwaway(None, None, Durability::Off).await.unwrap();
        assert_eq!(show(&cluster, "select current_setting('fsync')").await, "off");
        let data_dir = cluster.postmaster.place.data_dir.clone();
        let pid = cluster.postmaster_pid().unwrap();
        if close {
            cluster.close().await.unwrap();
            assert!(!data_dir.exists());
        } else {
            drop(cluster);
        }
        until("the throwaway is removed", || !is_running(pid) && !data_dir.exists()).await;
    }
}

#[tokio::test]
async fn a_throwaway_is_removed_when_its_maker_is_killed() {
    let mut maker = other_process("throwaway");
    let (pid, data_dir) = opened(&mut maker);
    assert!(is_running(pid) && data_dir.exists());
    kill_process(maker);
    until("the throwaway is removed", || !is_running(pid) && !data_dir.exists()).await;
}

#[tokio::test]
async fn an_unfinished_throwaway_is_removed_when_its_maker_is_killed() {
    let maker = other_process("throwaway");
    let data_dir = crate::reaper::parent().unwrap().join(format!("actchain-throwaway-{}-0", maker.id()));
    until("initdb works", || data_dir.join("postgres/cluster.new/base").exists()).await;
    kill_process(maker);
    until("the throwaway is removed", || !data_dir.exists()).await;
}
