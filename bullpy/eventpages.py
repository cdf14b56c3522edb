"""Reading an event stream backwards in a script, whatever its entries weigh."""

BACKWARDS = """
-- The entries of a stream from `from` back, at most `most`, their fields cut to `longest` bytes.
-- Results and progress may have megabytes each, and everybody would wait for them: it takes few at
-- a time, and ends early where they are large. Gives them, and whether the stream begins there.
local function backwards(stream, from, most, longest)
    local found, bytes = {}, 0
    while #found < most do
        local asked = math.min(4, most - #found)
        local entries = redis.pcall('XREVRANGE', stream, from, '-', 'COUNT', asked)
        if entries.err then return found, true end
        for _, entry in ipairs(entries) do
            local fields = entry[2]
            for index = 1, #fields do
                bytes = bytes + #fields[index]
                fields[index] = string.sub(fields[index], 1, longest)
            end
            found[#found + 1] = entry
        end
        if #entries < asked then return found, true end
        if bytes > 1048576 then return found, false end
        from = '(' .. entries[asked][1]
    end
    return found, false
end
"""
"""Defines `backwards(stream, from, most, longest)`."""
