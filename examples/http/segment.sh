#!/bin/sh
# Segment an image through the API with curl: segment.sh IMAGE "cat; sofa, couch" OUT.png
# ITACLIP_API is the server's address; ITACLIP_API_TOKEN is its token, if it has one.
set -eu
exec curl --silent --show-error --fail-with-body --retry 20 --max-time 300 \
    ${ITACLIP_API_TOKEN:+--header "Authorization: Bearer $ITACLIP_API_TOKEN"} \
    --form "image=@$1" --form-string "classes=$2" --form output=overlay --output "$3" \
    "${ITACLIP_API:-http://127.0.0.1:7860}/v1/segment"
