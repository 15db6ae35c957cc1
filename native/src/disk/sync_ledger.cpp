#include "disk/sync_ledger.h"

#include <utility>

namespace kvstore {

void SyncLedger::write_done(size_t file, uint64_t failures_at_start) {
  File& state = files_[file];
  ++state.writes;
  if (state.failures != failures_at_start) state.untold_error = state.last_error;
}

std::vector<SyncLedger::Duty> SyncLedger::sync_starts() {
  std::vector<Duty> duties;
  for (size_t file = 0; file < files_.size(); ++file) {
    File& state = files_[file];
    if (state.writes == state.writes_synced) continue;
    duties.push_back({file, state.writes, std::exchange(state.untold_error, 0)});
  }
  return duties;
}

int SyncLedger::sync_done(const Duty& duty, int error) {
  File& state = files_[duty.file];
  if (error == 0) {
    state.writes_synced = duty.writes;
    return duty.error;
  }
  ++state.failures;
  state.last_error = error;
  if (state.writes != duty.writes) state.untold_error = error;
  return error;
}

}  // namespace kvstore
