#include "transport/ucx_context.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <sys/socket.h>
#include <ucs/debug/log_def.h>
#include <unistd.h>

#include <cstdarg>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "transport/socket_address.h"

namespace kvstore {
namespace {

constexpr unsigned kFloorMajor = 1;
constexpr unsigned kFloorMinor = 21;

// UCX prints to stdout on its own; what matters reaches callers as a status, so it is silenced below "fatal".
ucs_log_func_rc_t drop_log(const char*, unsigned, const char*, ucs_log_level_t level, const ucs_log_component_config_t*,
                           const char*, va_list) {
  return level > UCS_LOG_LEVEL_FATAL ? UCS_LOG_FUNC_RC_STOP : UCS_LOG_FUNC_RC_CONTINUE;
}

void silence_ucx_once() {
  static std::once_flag once;
  std::call_once(once, [] { ucs_log_push_handler(drop_log); });
}

using Settings = std::vector<std::pair<const char*, std::string>>;

Settings settings_of(const UcxProfile& profile) {
  Settings settings{
      {"TLS", profile.transports},  {"SOCKADDR_TLS_PRIORITY", profile.rendezvous ? "rdmacm,tcp" : "tcp"},
      {"KEEPALIVE_INTERVAL", "1s"}, {"MM_ERROR_HANDLING", "y"},
      {"MEMTYPE_CACHE", "n"},
  };
  if (!profile.net_device.empty()) settings.emplace_back("NET_DEVICES", profile.net_device);
  if (profile.port != 0) {
    const std::string port = std::to_string(profile.port);
    settings.emplace_back("TCP_PORT_RANGE", port + "-" + port);
  }
  if (!profile.rendezvous) {
    settings.emplace_back("RNDV_THRESH", "inf");
    settings.emplace_back("TCP_TX_SEG_SIZE", "64k");
    settings.emplace_back("TCP_RX_SEG_SIZE", "64k");
    settings.emplace_back("POSIX_SEG_SIZE", "64k");
    settings.emplace_back("POSIX_FIFO_SIZE", "64");
  } else {
    settings.emplace_back("RNDV_THRESH", "16k");
  }
  return settings;
}

}  // namespace

UcxProfile UcxProfile::eager(const std::string& transports, const std::string& host) {
  return {.transports = transports,
          .net_device = net_device_of(host),
          .ipv6 = host.find(':') != std::string::npos,
          .rendezvous = false,
          .chunk_bytes = 65'000};
}

UcxProfile UcxProfile::rdma(const std::string& transports, const std::string& host) {
  // RDMA devices have names of their own; only TCP goes by network interfaces, and listens on them.
  const bool over_tcp = transports.find("tcp") != std::string::npos;
  return {.transports = transports,
          .net_device = over_tcp ? net_device_of(host) : "",
          .ipv6 = host.find(':') != std::string::npos,
          .rendezvous = true,
          .chunk_bytes = 64ull << 20};
}

std::string net_device_of(const std::string& host) {
  SocketAddress address = SocketAddress::parse(host, 9);
  if (!address.valid()) throw std::runtime_error("not a numeric address: " + host);
  if (address.wildcard()) return "";
  // Connecting a datagram socket sends nothing; it asks the routing table which of our addresses leads there.
  const int fd = socket(address.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw std::runtime_error("no socket to find the interface of " + host);
  SocketAddress local;
  const bool routed =
      connect(fd, address.get(), address.length()) == 0 && getsockname(fd, local.get(), local.length_out()) == 0;
  close(fd);
  ifaddrs* interfaces = nullptr;
  if (!routed || getifaddrs(&interfaces) != 0) throw std::runtime_error("no network interface leads to " + host);
  std::string name;
  for (const ifaddrs* entry = interfaces; entry != nullptr && name.empty(); entry = entry->ifa_next) {
    if (entry->ifa_addr != nullptr && local.same_host(entry->ifa_addr)) name = entry->ifa_name;
  }
  freeifaddrs(interfaces);
  if (name.empty()) throw std::runtime_error("no network interface leads to " + host);
  return name;
}

UcxContext::UcxContext(const UcxProfile& profile) : profile_(profile) {
  silence_ucx_once();
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) throw std::runtime_error(ucx_error("cannot read the UCX configuration", status));
  for (const auto& [name, value] : settings_of(profile)) {
    status = ucp_config_modify(config, name, value.c_str());
    if (status != UCS_OK) {
      ucp_config_release(config);
      throw std::runtime_error(ucx_error(std::string("UCX does not take ") + name + "=" + value, status));
    }
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = "kvstore";
  status = ucp_init_version(kFloorMajor, kFloorMinor, &params, config, &handle_);
  ucp_config_release(config);
  if (status != UCS_OK) {
    throw std::runtime_error(ucx_error("cannot open UCX with transports " + profile.transports, status));
  }
}

UcxContext::~UcxContext() { ucp_cleanup(handle_); }

std::string ucx_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucp_get_version(&major, &minor, &release);
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

std::string ucx_error(const std::string& what, ucs_status_t status) { return what + ": " + ucs_status_string(status); }

}  // namespace kvstore
