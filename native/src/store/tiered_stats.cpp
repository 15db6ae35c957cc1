// What a tiered store counts. Names without a prefix are the DRAM tier's; `nvme_` ones add up all disks.
#include "store/tiered_store.h"

namespace kvstore {

namespace {

using Counters = std::vector<std::pair<std::string, uint64_t>>;

void add_dram(const StoreStats& dram, Counters* stats) {
  stats->insert(stats->end(), {
                                  {"capacity_bytes", dram.capacity_bytes},
                                  {"used_bytes", dram.used_bytes},
                                  {"reserved_bytes", dram.reserved_bytes},
                                  {"leased_bytes", dram.leased_bytes},
                                  {"index_bytes", dram.index_bytes},
                                  {"blocks", dram.blocks},
                                  {"leases", dram.leases},
                                  {"hits", dram.hits},
                                  {"misses", dram.misses},
                                  {"puts", dram.puts},
                                  {"put_exists", dram.put_exists},
                                  {"put_conflicts", dram.put_conflicts},
                                  {"put_busy", dram.put_busy},
                                  {"put_too_large", dram.put_too_large},
                                  {"put_aborted", dram.put_aborted},
                                  {"evicted_blocks", dram.evicted_blocks},
                                  {"evicted_bytes", dram.evicted_bytes},
                                  {"expired_blocks", dram.expired_blocks},
                                  {"deleted_blocks", dram.deleted_blocks},
                                  {"quarantined_blocks", dram.quarantined_blocks},
                              });
}

// The same names in the same order for every disk, so that they can be added up.
Counters of_disk(DiskTier& disk) {
  const StoreStats index = disk.index().stats();
  const DiskTierCounters& counters = disk.counters();
  return {
      {"nvme_disks", 1},
      {"nvme_disks_in_trouble", disk.healthy() ? 0 : 1},
      {"nvme_capacity_bytes", index.capacity_bytes},
      {"nvme_used_bytes", index.used_bytes},
      {"nvme_blocks", index.blocks},
      {"nvme_index_bytes", index.index_bytes},
      {"nvme_hits", index.hits},
      {"nvme_evicted_blocks", index.evicted_blocks},
      {"nvme_evicted_bytes", index.evicted_bytes},
      {"nvme_expired_blocks", index.expired_blocks},
      {"nvme_deleted_blocks", index.deleted_blocks},
      {"nvme_quarantined_blocks", index.quarantined_blocks},
      {"nvme_quarantined_bytes", counters.quarantined_bytes},
      {"nvme_written_blocks", counters.written_blocks},
      {"nvme_written_bytes", counters.written_bytes},
      {"nvme_read_blocks", counters.read_blocks},
      {"nvme_read_bytes", counters.read_bytes},
      {"nvme_write_errors", counters.write_errors},
      {"nvme_read_errors", counters.read_errors},
      {"nvme_sync_errors", counters.sync_errors},
      {"nvme_commits", counters.commits},
      {"nvme_commit_errors", counters.commit_errors},
      {"nvme_troubles", counters.troubles},
  };
}

}  // namespace

Counters TieredStore::stats() const {
  Counters stats;
  add_dram(dram_.stats(), &stats);
  const PinStats pins = pins_.stats();
  stats.insert(stats.end(),
               {{"pinned_blocks", pins.blocks}, {"pinned_bytes", pins.bytes}, {"pinned_bytes_max", pins.bytes_max}});
  if (disks_.empty()) return stats;
  Counters total = of_disk(*disks_.front());
  for (size_t disk = 1; disk < disks_.size(); ++disk) {
    const Counters one = of_disk(*disks_[disk]);
    for (size_t i = 0; i < total.size(); ++i) total[i].second += one[i].second;
  }
  stats.insert(stats.end(), total.begin(), total.end());
  const ColdReadCounters& cold = cold_.counters();
  stats.insert(stats.end(), {
                                {"nvme_misses", cold.missed},
                                {"nvme_reads_joined", cold.joined},
                                {"nvme_reads_busy", cold.busy},
                                {"nvme_wrong_checksums", cold.wrong_checksums},
                                {"write_queue_blocks", queue_.blocks()},
                                {"write_queue_bytes", queue_.bytes()},
                                {"write_queue_lag_ms", queue_.lag_ms()},
                            });
  return stats;
}

}  // namespace kvstore
