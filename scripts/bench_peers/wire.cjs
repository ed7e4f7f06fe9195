// The broker's messages by `protobufjs`: types are looked up and their code is generated once, before anything connects.
'use strict'

const path = require('node:path')
const protobuf = require('protobufjs')

const SPOT_EVENT = 'ProtoOASpotEvent'

class Wire {
  // `folder`: where the schema's root is, so that `protos/ctrader/messages.proto` is below it.
  constructor (folder) {
    protobuf.util.Long = undefined // ids and prices stay below 2^53: plain numbers are faster than Long objects
    protobuf.configure()
    const root = new protobuf.Root()
    root.resolvePath = (_, target) => path.resolve(folder, target)
    root.loadSync(['protos/ctrader/common_messages.proto', 'protos/ctrader/messages.proto'])
    const types = root.lookup('pulse_bridge.ctrader').nestedArray.filter((each) => each instanceof protobuf.Type)
    this.envelope = types.find((each) => each.name === 'ProtoMessage').setup()
    this.byName = new Map()
    this.byNumber = new Map()
    for (const type of types) {
      const field = type.fields.payloadType
      if (field === undefined || type.name === 'ProtoMessage') continue
      type.setup()
      const entry = { type, name: type.name, number: field.resolve().typeDefault ?? field.defaultValue }
      this.byName.set(type.name, entry)
      this.byNumber.set(entry.number, entry)
    }
    this.heartbeat = this.encode('ProtoHeartbeatEvent', {})
    this.spot = this.byName.get(SPOT_EVENT)
  }

  encode (name, fields, clientMsgId) {
    const { type, number } = this.byName.get(name)
    const payload = type.encode(fields).finish()
    return this.envelope.encode({ payloadType: number, payload, clientMsgId }).finish()
  }
}

module.exports = { Wire }
