// Precompiled for the portable sources of the libraries: what most of them include. They keep their
// own includes, so that they also compile without (-Db_pch=false).
#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/error.h"
